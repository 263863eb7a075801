"""The feature `thinking` of the comparison."""
