"""An adapter and its base become one model, and the check that they are the same."""
