"""The task sweep: measures speed for each combination of batch size, prompt length and other settings."""
