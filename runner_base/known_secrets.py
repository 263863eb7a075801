"""The secrets in the environment: a message, a log or a record never has them, and some children
never get them.

A server may send back what it was sent, in an error page or a header that a library quotes.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

HIDDEN = "***"
ENDS = ("_KEY", "_TOKEN", "_PASSWORD", "_SECRET", "PGPASSWORD")  # of the names of such variables
LOG_INS = (("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),)  # which are sent together
SHORTEST = 8  # characters: shorter ones, such as EMPTY, are words of any message
# What a child needs that computes by itself: where programs and their libraries lie, and how texts
# and threads are set up. All else stays here, whatever its name: an allow-list misses no secret.
FOR_CHILDREN = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TZ"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_NUMERIC"),
    *(
        "PYTHONHOME",
        "PYTHONHASHSEED",
        "PYTHONUTF8",
        "PYTHONIOENCODING",
        "PYTHONWARNINGS",
        "PYTHONDONTWRITEBYTECODE",
    ),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)


def environment_for_children() -> dict[str, str]:
    """Return the environment of a child that reads what a model or a checkpoint has written: no
    secret is in it."""
    return {name: os.environ[name] for name in FOR_CHILDREN if name in os.environ}


def without_known_secrets(text: str) -> str:
    """Return a text without the values of the environment's secrets, in any spelling that is
    sent."""
    for spelling in sorted({*_spellings()}, key=len, reverse=True):
        text = text.replace(spelling, HIDDEN)
    return text


def variable_of_secret(text: str) -> str | None:
    """Return the environment variable whose secret is in a text; None if there is none."""
    return next((name for name, secret in _secrets() if secret in text), None)


def _secrets() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        secret = value.strip()
        if name.upper().endswith(ENDS) and len(secret) >= SHORTEST:
            yield name, secret


def _spellings() -> Iterator[str]:
    for _, secret in _secrets():
        yield from (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1])
    for user, password in LOG_INS:
        if os.environ.get(password):
            yield b64encode(f"{os.environ.get(user, '')}:{os.environ[password]}".encode()).decode()
