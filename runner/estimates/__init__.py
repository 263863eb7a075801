"""Estimates of a job before it runs, without torch: memory, whether it fits, and time."""
