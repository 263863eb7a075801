"""Environment variables: one that is empty or blank counts as not set, and `.env` sets those that are not set."""

from __future__ import annotations

import os
from pathlib import Path

from runner.core.errors import ConfigError

FILE = ".env"


def variable(name: str, otherwise: str | None = None) -> str | None:
    """Return the value of a variable, or the other value if it is not set."""
    return os.environ.get(name, "").strip() or otherwise


def read() -> None:
    """Read `.env` into the environment; its values are never printed, since they may be secret keys."""
    path = Path(FILE)
    if not path.is_file():  # some virtual environments are folders of this name
        return
    from dotenv import load_dotenv

    try:
        load_dotenv(path.absolute(), override=False)
    except OSError as error:
        raise ConfigError(f"{FILE} cannot be read: {error.strerror}") from None
    except ValueError:  # its text may quote a key
        raise ConfigError(f"{FILE} cannot be read: give UTF-8 text with lines NAME=VALUE") from None
