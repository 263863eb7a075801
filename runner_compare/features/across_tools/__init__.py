"""The feature `across_tools` of the comparison."""
