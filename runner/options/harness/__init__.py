"""Runs lm-evaluation-harness on the runner's engine. `runner-lm-eval` is lm-eval's command line
with the additional model `runner`.

command.py registers the model (model.py), which translates lm-eval's requests into the
engine's. Only this package imports lm_eval.
"""

from runner.options.harness.command import entry, main

__all__ = ["entry", "main"]
