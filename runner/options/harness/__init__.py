"""Runs lm-evaluation-harness on the runner's engine, with the command `runner-lm-eval`.

command.py registers the model (model.py), which translates lm-eval's requests into the
engine's. Only this package imports lm_eval.
"""

from runner.options.harness.command import entry, main

__all__ = ["entry", "main"]
