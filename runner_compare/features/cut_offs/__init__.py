"""The feature `cut_offs` of the comparison."""
