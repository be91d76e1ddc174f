"""trl's trainers of the stage preference, and what KTO needs beside them."""
