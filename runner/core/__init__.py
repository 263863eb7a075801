"""Helpers that the other folders of the runner import: deferred imports, JSON fields, energy counters,
terminal input.
"""
