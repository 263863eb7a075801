"""The feature `front` of the comparison."""
