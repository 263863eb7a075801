"""Text of a server about itself: its interface, metrics and start message."""
