"""Compares how many answers of two runs degenerated, e.g. by a loop."""
