"""What the engine says: text made of values, and nothing computed."""
