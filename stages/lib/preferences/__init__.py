"""Preference pairs, votes, and what evaluation keeps to itself."""
