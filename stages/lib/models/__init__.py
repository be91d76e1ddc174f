"""Model directories: loaded, measured, and spoken to in their own template."""
