"""A store's URI as it may be shown and written down: without user names, passwords, tokens and other secrets."""

from __future__ import annotations

import re

HIDDEN = "***"
# what a query may say openly; every other value is hidden
PLAIN = ("host", "port", "sslmode", "timeout", "connect_timeout", "mode", "cache", "uri", "charset", "driver", "nolock")
URI = re.compile(r"\b[a-zA-Z][\w+.-]*://(?:[^\s'\"<>,;)\]}]*[^\s'\"<>,;)\]}:.])?")  # a message may go on with : or .


def without_secrets(text: str) -> str:
    """Return a text with the secrets of every URI in it hidden."""
    return URI.sub(lambda found: _shown(found[0]), text) if "://" in text else text


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
