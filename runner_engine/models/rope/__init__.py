"""Rotary position embeddings (rope): context-length scalings, and 2D rope with two coordinates per token."""
