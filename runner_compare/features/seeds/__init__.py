"""The feature `seeds` of the comparison."""
