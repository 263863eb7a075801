"""A model in parts: planned, written, checked, restored, loaded."""
