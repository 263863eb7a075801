"""The URIs of stores: sqlite:///PATH and back, and how to show and store one without its secrets.

SQLAlchemy reads %20 in the path of sqlite as a space, and a ? as its end. A URI that is shown
contains no user names, passwords, tokens or other secrets.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from runner_base.known_secrets import HIDDEN as HIDDEN
from runner_base.known_secrets import without_known_secrets

SCHEMES = ("sqlite:///", "sqlite+pysqlite:///")
# parameters of a query that are shown; every other value is hidden
PLAIN = (
    "host",
    "port",
    "sslmode",
    "timeout",
    "connect_timeout",
    "mode",
    "cache",
    "uri",
    "charset",
    "driver",
    "nolock",
)
# Characters such as , ; ' ) may be within a URI's secrets, so only what no URI has ends it, or the
# next URI
SCHEME = r"[a-zA-Z][\w+.-]{0,30}://"
URI = re.compile(rf"\b{SCHEME}(?:(?!\b{SCHEME})[^\s\"<>])*")
OF_THE_TEXT = ",;:.')]}"  # at the end of a URI
# the one fragment that is shown: of MLflow's pages
ROUTE = re.compile(r"/experiments/\d+(/runs/\w{32})?")
NETWORK = ("http", "postgres", "mysql", "mssql")  # the @ of such a URI ends its user's part


def sqlite_uri(path: Path) -> str:
    """Return the URI of a database file, as MLflow takes it.

    If something has to be encoded, the driver is named as well: after `sqlite:///` MLflow takes the
    rest literally, and would make a folder with the encoded name beside the right one.
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
    """Return a text with the secrets of every URI in it hidden, and those of the environment."""
    text = without_known_secrets(text)
    return URI.sub(lambda match: _shown(match[0]), text) if "://" in text else text


def _shown(uri: str) -> str:
    uri, after = uri[: len(uri.rstrip(OF_THE_TEXT))], uri[len(uri.rstrip(OF_THE_TEXT)) :]
    scheme, _, rest = uri.partition("://")
    kind = scheme.lower()
    if kind.startswith("sqlite"):
        return uri + after  # a file: nothing to hide, and its folders may have any name
    # a password may have / ? # or @ in it, so that only the last @ surely ends it
    _, at, rest = rest.rpartition("@") if kind.startswith(NETWORK) else _user_of(rest)
    rest, hash_sign, fragment = rest.partition("#")
    path, question_mark, query = rest.partition("?")
    path, semicolon, _ = path.partition(";")  # parameters of a path, such as a session
    query = "&".join(_shown_part(part) for part in query.split("&")) if question_mark else ""
    fragment = fragment if not fragment or ROUTE.fullmatch(fragment) else HIDDEN
    path += f";{HIDDEN}" if semicolon else ""
    return f"{scheme}://{HIDDEN * bool(at)}{at}{path}{question_mark}{query}{hash_sign}{fragment}{after}"


def _user_of(rest: str) -> tuple[str, str, str]:
    where = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = where.rpartition("@")
    return user, at, rest[len(user + at) :]


def _shown_part(part: str) -> str:
    key, equals, _ = part.partition("=")
    return part if key.lower() in PLAIN else f"{key}={HIDDEN}" if equals else HIDDEN
