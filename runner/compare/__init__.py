"""`runner-compare`: what the runs in MLflow say, side by side, and which differences are real.

The way through (command.py): load the runs (store.py) → choose (choose.py, where.py) → find each run's baseline and
pair on the same questions (table.py, pair.py) → say it (say.py, show.py, page.py). A side door to the program: it reads
MLflow and samples.jsonl, never imports torch, and writes only what --save and --log ask for.
"""

from runner.compare.command import entry, main

__all__ = ["entry", "main"]
