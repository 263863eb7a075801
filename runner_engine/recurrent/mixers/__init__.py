"""Kinds of recurrent layers: one module each, named in `MIXERS` (mixer.py)."""
