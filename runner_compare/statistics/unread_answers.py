"""Metric names for answers that the scoring extractor could not read but another extractor could.

Such a score depends on the answer format. Only answers that ended by themselves count here;
floor_effects.py handles those that a limit cut off.
"""

from __future__ import annotations

ENDED = "answers_ended"  # a metric: so many answers ended by themselves
FOUND = "answers_found/"  # and its extractor: in so many of these it found an answer
EXTRACTOR, SCORER = "task.extractor", "task.scorer"
