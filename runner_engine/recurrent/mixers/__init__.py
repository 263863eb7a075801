"""Implementations of recurrent layers: one module per layer type, listed in `MIXERS`
(mixer.py).
"""
