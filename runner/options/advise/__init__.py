"""`runner-advise`: the best settings for a model, a machine and limits, ranked, with the basis of
each; no torch.

The steps (command.py): candidate settings (candidates.py) → memory and time of each, from records
or a calibration, or guessed for a described machine (machines.py) → those within the limits, best
first.
"""

from runner.options.advise.command import entry, main

__all__ = ["entry", "main"]
