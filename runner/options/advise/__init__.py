"""The command `runner-advise` recommends settings for a model, a machine and limits. It imports
no torch.

The steps (command.py): candidate settings (candidates.py) → memory and time of each, from
records, a calibration, or an estimate for a described machine (machines.py) → those within
the limits, best first.
"""

from runner.options.advise.command import entry, main

__all__ = ["entry", "main"]
