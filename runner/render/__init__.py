"""What the runner says: text made of values, and nothing computed."""
