"""`.env` of the working directory: what it sets is seen as the environment, unless the environment itself sets it."""

from __future__ import annotations

from pathlib import Path

from runner.core.errors import ConfigError

FILE = ".env"


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
