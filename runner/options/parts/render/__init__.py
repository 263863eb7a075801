"""Texts about splitting a checkpoint: its plan, and the check of its parts."""
