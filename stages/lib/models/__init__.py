"""Model directories: fetched, loaded, merged, and spoken to in their own template."""
