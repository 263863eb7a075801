"""Errors, results, statistics and progress bars, which all other packages of the runner import."""
