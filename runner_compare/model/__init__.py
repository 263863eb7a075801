"""Runs, their answers and pairs, and the table of a comparison."""
