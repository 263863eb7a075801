"""Measures a model's memory use (task=memory)."""
