"""Rotary position encodings: transformers' scalings, and 2D rope with two coordinates per token."""
