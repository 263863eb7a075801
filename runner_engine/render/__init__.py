"""Converts the engine's values to text. Computes nothing."""
