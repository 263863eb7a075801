"""The engine inside lm-evaluation-harness: `runner-lm-eval …` is its command line with one more
model, `runner`.

command.py registers the model (model.py), which translates lm-eval's requests into the engine's.
The package lm_eval is imported only here.
"""

from runner.options.harness.command import entry, main

__all__ = ["entry", "main"]
