"""Measures an engine's speed: batches of one shape, machine limits, and timed request arrivals."""
