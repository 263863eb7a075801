"""The feature `budgets` of the comparison."""
