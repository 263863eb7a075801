"""Measures an engine's speed: batches of one shape, the machine's limits, requests that arrive by a
clock."""
