"""Renders the server's API description, metrics and start message."""
