"""Verdicts on completions, for every task that asks questions with known answers."""
