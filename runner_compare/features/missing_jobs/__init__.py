"""The feature `missing_jobs` of the comparison."""
