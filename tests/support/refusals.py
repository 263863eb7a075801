"""What the C kernels refuse, told apart by the name of the reason and the place it is about."""

from __future__ import annotations

import re

from runner_engine.kernels.c_interface import MAX_DIM, MAX_GROUP
from runner_engine.render.refusals import REFUSALS

ANY_PLACE = 987654321


def refusal(reason: str, at: int = 0, function: str = "") -> str:
    """Return a pattern for the message of a refusal, for `pytest.raises(IndexError, match=...)`."""
    text = re.escape(REFUSALS[reason].format(at=at, max_group=MAX_GROUP, max_dim=MAX_DIM))
    return rf"^{function or '[a-z_0-9]+'}: {text.replace(str(ANY_PLACE), '[0-9]+')}$"
