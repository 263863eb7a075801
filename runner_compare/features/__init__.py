"""Features of the comparison: one folder each, listed in registry.py."""
