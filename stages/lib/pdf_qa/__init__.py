"""From pages of a PDF to questions and answers that can be trusted."""
