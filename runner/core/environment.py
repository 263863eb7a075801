"""The environment by one rule: a variable set to nothing or to spaces is not set, and `.env` sets what is left open."""

from __future__ import annotations

import os
from pathlib import Path

from runner.core.errors import ConfigError

FILE = ".env"


def variable(name: str, otherwise: str | None = None) -> str | None:
    """Return what a variable says, or the other value where it says nothing."""
    return os.environ.get(name, "").strip() or otherwise


def read() -> None:
    """Take in what `.env` sets; its values are never printed, since keys may be among them."""
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
