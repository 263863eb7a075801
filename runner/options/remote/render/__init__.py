"""What a model on a server makes known: text made of values, and nothing computed."""
