"""The feature `savings` of the comparison."""
