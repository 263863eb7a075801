"""Plans, writes, checks, restores and loads the parts of a model."""
