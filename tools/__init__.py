"""Tools that people run; none is a stage."""
