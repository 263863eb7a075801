"""Replaces the secrets of environment variables in messages, logs and records, and hides them
from child processes.

A server may send a secret back, in an error page or a header that a library quotes.
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


def untrusted_child_environment() -> dict[str, str]:
    """Return the environment for a child that reads untrusted model output or checkpoints.

    It has only variables from an allow-list, so it contains no secret.
    """
    return {name: os.environ[name] for name in FOR_CHILDREN if name in os.environ}


def redact_environment_secrets(text: str) -> str:
    """Replace the values of secret environment variables by `***`, including URL-encoded values."""
    for spelling in sorted({*_iter_secret_encodings()}, key=len, reverse=True):
        text = text.replace(spelling, HIDDEN)
    return text


def find_leaked_variable(text: str) -> str | None:
    """Return the environment variable whose secret value occurs in a text, or None."""
    return next((name for name, secret in _iter_secrets() if secret in text), None)


def _iter_secrets() -> Iterator[tuple[str, str]]:
    for name, value in os.environ.items():
        secret = value.strip()
        if name.upper().endswith(ENDS) and len(secret) >= SHORTEST:
            yield name, secret


def _iter_secret_encodings() -> Iterator[str]:
    for _, secret in _iter_secrets():
        yield from (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1])
    for user, password in LOG_INS:
        if os.environ.get(password):
            yield b64encode(f"{os.environ.get(user, '')}:{os.environ[password]}".encode()).decode()
