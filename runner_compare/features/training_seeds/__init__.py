"""The feature `training_seeds` of the comparison."""
