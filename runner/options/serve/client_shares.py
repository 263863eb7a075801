"""Divides the completion slots among clients, so that no client can block the others.

A client may use all slots while it is alone. A later client still gets its share, beyond
`task.max_open`: running completions cannot be revoked, and waiting ones are cheap. Within a
client's share its requests are equal, so that a request with many completions does not
block small ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from starlette.types import Scope

MOST_OF_ONE = 2  # times its share: what one client has at most, with the requests beside its large ones
MOST_OF_ALL = 3  # times task.max_open: what all clients have at most


class OpenRequest(NamedTuple):
    """A running request, with its client and its number of completion slots."""

    owner: str
    places: int


def get_client_id(scope: Scope) -> str:
    """Identify the client that sent a request by its API key and address."""
    address = (scope.get("client") or ("",))[0]
    key = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    return f"{address} {key}"


def has_free_slots(
    max_open_completions: int, open_requests: Iterable[OpenRequest], client_id: str, num_completions: int
) -> bool:
    under_way = [one for one in open_requests if one.places]
    total = sum(one.places for one in under_way)
    if total + num_completions <= max_open_completions:
        return True
    share = max_open_completions // len({client_id, *(one.owner for one in under_way)})
    own = [one.places for one in under_way if one.owner == client_id]
    is_within_share = sum(own) + num_completions <= share
    is_beside_large = (
        num_completions <= share // (len(own) + 1) and sum(own) + num_completions <= MOST_OF_ONE * share
    )
    return (
        is_within_share or is_beside_large
    ) and total + num_completions <= MOST_OF_ALL * max_open_completions
