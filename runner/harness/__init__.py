"""The engine inside lm-evaluation-harness: `runner-lm-eval …` is its command line with the model `runner` known to it.

command.py registers the model (model.py), which stands between lm-eval's requests and the engine's. The package lm_eval
is asked for here and nowhere else.
"""

from runner.harness.command import entry, main

__all__ = ["entry", "main"]
