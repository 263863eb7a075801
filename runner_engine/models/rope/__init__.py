"""Rotary position embeddings (rope): transformers' scalings, and 2D rope with two coordinates
per token.
"""
