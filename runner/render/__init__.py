"""Texts of the runner's messages, built from values without computing anything."""
