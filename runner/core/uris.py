"""The URIs of stores: sqlite:///PATH and back, and how to show and store one without its secrets.

SQLAlchemy reads %20 in the path of sqlite as a space, and a ? as its end. A URI that is shown contains no user names,
passwords, tokens or other secrets.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

SCHEMES = ("sqlite:///", "sqlite+pysqlite:///")
HIDDEN = "***"
# parameters of a query that are shown; every other value is hidden
PLAIN = ("host", "port", "sslmode", "timeout", "connect_timeout", "mode", "cache", "uri", "charset", "driver", "nolock")
URI = re.compile(
    r"\b[a-zA-Z][\w+.-]*://(?:[^\s'\"<>,;)\]}]*[^\s'\"<>,;)\]}:.])?"
)  # a : or . at the end belongs to the message


def sqlite_uri(path: Path) -> str:
    """Return the URI of a database file, as MLflow takes it.

    If something has to be encoded, the driver is named as well: after `sqlite:///` MLflow takes the rest literally,
    and would make a folder with the encoded name beside the right one.
    """
    text = str(path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return f"{SCHEMES[text != str(path)]}{text}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file that a URI names, or None if it does not name a sqlite database."""
    for scheme in SCHEMES:
        if uri.startswith(scheme):
            return Path(unquote(uri.removeprefix(scheme).partition("?")[0]))
    return None


def without_secrets(text: str) -> str:
    """Return a text with the secrets of every URI in it hidden."""
    return URI.sub(lambda match: _shown(match[0]), text) if "://" in text else text


def _shown(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    if scheme.startswith("sqlite"):
        return uri  # a file: nothing to hide, and its folders may have any name
    rest, hash_sign, fragment = rest.partition("#")
    place, question_mark, query = rest.partition("?")
    where, slash, path = place.partition("/")
    if "@" in where:
        where = f"{HIDDEN}@{where.rpartition('@')[2]}"
    elif "@" in path and scheme.startswith(("http", "postgres", "mysql", "mssql")):  # a password with a / in it
        where, slash, path = f"{HIDDEN}@{path.rpartition('@')[2]}", "", ""
    query = "&".join(_shown_part(part) for part in query.split("&")) if question_mark else ""
    return f"{scheme}://{where}{slash}{path}{question_mark}{query}{hash_sign}{fragment}"


def _shown_part(part: str) -> str:
    key, equals, _ = part.partition("=")
    return part if key.lower() in PLAIN else f"{key}={HIDDEN}" if equals else HIDDEN
