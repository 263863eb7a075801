"""Splits a checkpoint into parts. Also verifies, merges and loads the parts."""
