"""URIs of stores: convert sqlite:///PATH to a path and back, and redact secrets.

SQLAlchemy reads %20 in the path of sqlite as a space, and a ? as its end. A URI that is
shown contains no user names, passwords, tokens or other secrets.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from runner_base.known_secrets import HIDDEN as HIDDEN
from runner_base.known_secrets import redact_environment_secrets

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
DATABASE_SERVERS = ("postgres", "mysql", "mssql")
NETWORK = ("http", *DATABASE_SERVERS)  # the @ of such a URI ends its user's part
# of a database without a password: it is shown, so that commands can be copied. The user's part of
# another URI may be a token
USER_NAME = re.compile(r"[\w.-]+")


def format_sqlite_uri(path: Path) -> str:
    """Return the sqlite URI of a database file, in the form that MLflow expects.

    If a character has to be encoded, the URI names the driver too: after `sqlite:///` MLflow
    takes the rest literally, and would create a folder with the encoded name.
    """
    text = str(path).replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return f"{SCHEMES[text != str(path)]}{text}"


def parse_sqlite_path(uri: str) -> Path | None:
    """Return the database file of a sqlite URI, or None for another URI."""
    for scheme in SCHEMES:
        if uri.startswith(scheme):
            return Path(unquote(uri.removeprefix(scheme).partition("?")[0]))
    return None


def redact_secrets(text: str) -> str:
    """Hide the secrets of all URIs and of environment variables in a text."""
    text = redact_environment_secrets(text)
    return URI.sub(lambda match: _redact_uri(match[0]), text) if "://" in text else text


def _redact_uri(uri: str) -> str:
    uri, after = uri[: len(uri.rstrip(OF_THE_TEXT))], uri[len(uri.rstrip(OF_THE_TEXT)) :]
    scheme, _, rest = uri.partition("://")
    kind = scheme.lower()
    if kind.startswith("sqlite"):
        return uri + after  # a file: nothing to hide, and its folders may have any name
    # a password may have / ? # or @ in it, so that only the last @ surely ends it
    user, at, rest = rest.rpartition("@") if kind.startswith(NETWORK) else _split_user_info(rest)
    if at and not (kind.startswith(DATABASE_SERVERS) and USER_NAME.fullmatch(user)):
        user = HIDDEN
    rest, hash_sign, fragment = rest.partition("#")
    path, question_mark, query = rest.partition("?")
    path, semicolon, _ = path.partition(";")  # parameters of a path, such as a session
    query = "&".join(_redact_query_part(part) for part in query.split("&")) if question_mark else ""
    fragment = fragment if not fragment or ROUTE.fullmatch(fragment) else HIDDEN
    path += f";{HIDDEN}" if semicolon else ""
    return f"{scheme}://{user}{at}{path}{question_mark}{query}{hash_sign}{fragment}{after}"


def _split_user_info(uri_without_scheme: str) -> tuple[str, str, str]:
    where = re.split(r"[/?#]", uri_without_scheme, maxsplit=1)[0]
    user, at, _ = where.rpartition("@")
    return user, at, uri_without_scheme[len(user + at) :]


def _redact_query_part(part: str) -> str:
    key, equals, _ = part.partition("=")
    return part if key.lower() in PLAIN else f"{key}={HIDDEN}" if equals else HIDDEN
