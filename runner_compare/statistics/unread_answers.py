"""Names of metrics that count the complete answers which each answer extractor can read.

The score of such answers depends on the answer format. Only answers that ended by
themselves count
here; floor_effects.py handles answers that a limit truncated.
"""

from __future__ import annotations

ENDED = "answers_ended"  # a metric: so many answers ended by themselves
FOUND = "answers_found/"  # and its extractor: in so many of these it found an answer
EXTRACTOR, SCORER = "task.extractor", "task.scorer"
