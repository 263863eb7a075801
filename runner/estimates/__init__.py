"""Estimates of a job before it runs: memory, whether it fits, time; recorded, calibrated or
guessed, without torch."""
