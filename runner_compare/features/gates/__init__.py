"""The feature `gates` of the comparison."""
