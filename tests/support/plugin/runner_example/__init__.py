"""Adds one thing of each kind to the runner."""
