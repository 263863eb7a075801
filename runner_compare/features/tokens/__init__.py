"""The feature `tokens` of the comparison."""
