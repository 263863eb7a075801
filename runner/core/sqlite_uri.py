"""sqlite:///PATH and back: SQLAlchemy reads %20 in it as a space, and a ? as the end of the path."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

SCHEMES = ("sqlite:///", "sqlite+pysqlite:///")


def sqlite_uri(path: Path) -> str:
    """Return the URI of a database file, as MLflow takes it.

    Where something has to be encoded, the driver is named as well: of `sqlite:///` MLflow takes the rest literally
    and makes a folder of the encoded name beside the one that is meant.
    """
    text = str(path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return f"{SCHEMES[text != str(path)]}{text}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file that a URI names, None where it names no sqlite database."""
    for scheme in SCHEMES:
        if uri.startswith(scheme):
            return Path(unquote(uri.removeprefix(scheme).partition("?")[0]))
    return None
