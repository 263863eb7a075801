"""The feature `beyond_trained` of the comparison."""
