"""Renders the runner's notes and messages as text."""
