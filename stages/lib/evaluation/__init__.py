"""Answers generated, scored and compared, with intervals."""
