"""Runs model-written programs in isolated processes, for a number, a letter, or the outcome of tests."""
