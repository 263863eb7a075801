"""Converts the engine's notes and errors to text."""
