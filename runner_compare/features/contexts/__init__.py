"""The feature `contexts` of the comparison."""
