"""The feature `pooled` of the comparison."""
