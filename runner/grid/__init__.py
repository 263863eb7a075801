"""From a grid to running jobs: spread its overrides out, compose each job once."""
