"""The feature `positions` of the comparison."""
