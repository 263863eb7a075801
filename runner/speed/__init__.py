"""Measures an engine's speed in batches and under requests that arrive over time, and the machine's
limits.
"""
