"""Layers taken out of a model; prune."""
