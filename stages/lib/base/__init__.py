"""A base model: where it comes from, and what it must be before anything is trained on it."""
