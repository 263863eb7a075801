"""Measures an engine's speed: batches of equal sequences, the machine's limits, and requests that
arrive over time.
"""
