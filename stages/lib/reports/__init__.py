"""The evaluation as people read it: page, Markdown, model card."""
