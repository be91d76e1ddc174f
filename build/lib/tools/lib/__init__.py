"""What tools share; no stage imports it."""
