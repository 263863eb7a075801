"""Renders comparisons of degenerate answers as sentences and pictures."""
