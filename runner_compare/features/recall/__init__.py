"""The feature `recall` of the comparison."""
