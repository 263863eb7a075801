"""The pictures of task=recall, drawn from a job's folder: `python -m runner.tasks.recall.pictures FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from runner_base.drawing import save_pictures
from runner_compare import draw_recall

MODULE = "runner.tasks.recall.pictures"
POINTS = "recall.json"  # in the job's folder: what the pictures are drawn from

if __name__ == "__main__":
    save_pictures(Path(sys.argv[1]) / POINTS, draw_recall)
