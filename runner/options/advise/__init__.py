"""The command `runner-advise` ranks the best settings for a model, a machine and limits, each with
evidence. This package imports no torch.

The steps (command.py): candidate settings (candidates.py) → memory and time of each, from
records, a calibration, or an estimate for a described machine (machines.py) → those within
the limits, best first.
"""

from runner.options.advise.command import entry, main

__all__ = ["entry", "main"]
