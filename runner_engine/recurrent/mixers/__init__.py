"""Implementations of recurrent layers: one module per kind, listed in `MIXERS` (mixer.py)."""
