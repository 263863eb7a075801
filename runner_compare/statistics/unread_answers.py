"""A score that says how answers are written: the rule that judges found nothing in answers where
another one did.

Only answers that ended by themselves count here: of those that a limit has cut off,
floor_effects.py speaks.
"""

from __future__ import annotations

ENDED = "answers_ended"  # a metric: so many answers ended by themselves
FOUND = "answers_found/"  # and its extractor: in so many of these it found an answer
EXTRACTOR, SCORER = "task.extractor", "task.scorer"
