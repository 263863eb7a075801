"""What a job will take before it runs: memory, whether it fits, time; recorded, calibrated or guessed, no torch."""
