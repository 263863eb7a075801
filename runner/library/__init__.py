"""Python interface: `load` returns a model for generation, and `evaluate` runs a job."""
