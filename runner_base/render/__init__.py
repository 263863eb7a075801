"""Renders notes, errors and other values as text."""
