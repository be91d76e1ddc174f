"""Records: read, compared, gated, counted; what the data stages share."""
