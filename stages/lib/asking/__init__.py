"""Language models that are asked: from a directory, or at an endpoint."""
