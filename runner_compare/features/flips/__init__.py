"""The feature `flips` of the comparison."""
