"""The feature `files` of the comparison."""
