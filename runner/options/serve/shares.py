"""Places among the open completions, shared by clients: one client's many completions do not lock
the others out.

A client may have all places while nobody else asks. Who comes later gets its share even so, beyond
`task.max_open`: completions cannot be taken back, and waiting ones cost the engine little. Within a
client's share its requests are treated alike, so that a request with many completions does not lock
out the small ones beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from starlette.types import Scope

MOST_OF_ONE = 2  # times its share: what one client has at most, with the requests beside its large ones
MOST_OF_ALL = 3  # times task.max_open: what all clients have at most


class Held(NamedTuple):
    """The places of one request under way, and whose it is."""

    owner: str
    places: int


def owner_of(scope: Scope) -> str:
    """Return whose request it is: its key and its address tell clients apart."""
    address = (scope.get("client") or ("",))[0]
    key = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    return f"{address} {key}"


def has_room(most: int, held: Iterable[Held], owner: str, rows: int) -> bool:
    """Return whether a client may have so many more places."""
    under_way = [one for one in held if one.places]
    total = sum(one.places for one in under_way)
    if total + rows <= most:
        return True
    share = most // len({owner, *(one.owner for one in under_way)})
    own = [one.places for one in under_way if one.owner == owner]
    is_within_share = sum(own) + rows <= share
    is_beside_large = rows <= share // (len(own) + 1) and sum(own) + rows <= MOST_OF_ONE * share
    return (is_within_share or is_beside_large) and total + rows <= MOST_OF_ALL * most
