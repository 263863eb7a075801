"""Texts that a server shows about itself: its API description, metrics and start message."""
