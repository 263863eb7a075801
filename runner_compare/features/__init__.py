"""The features of the comparison: a folder each, listed in registry.py."""
