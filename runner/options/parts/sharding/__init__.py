"""Splits a checkpoint into parts, and checks, restores and loads the parts."""
