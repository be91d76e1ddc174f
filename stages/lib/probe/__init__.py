"""Each later step of the chain, tried on a copy of the base with few layers."""
