"""Render values of all packages as text."""
