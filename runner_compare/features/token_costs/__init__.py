"""The feature `token_costs` of the comparison."""
