"""The feature `planning` of the comparison."""
