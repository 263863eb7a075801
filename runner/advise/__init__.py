"""`runner-advise`: this model, this machine, these limits: which settings? Ranked, with what each rests on; no torch.

The way through (command.py): candidates of settings (candidates.py) → memory and time of each, by what is recorded,
calibrated or, for a machine that is only described (machines.py), guessed → those within the limits, the best first.
"""

from runner.advise.command import entry, main

__all__ = ["entry", "main"]
