"""Exceptions for temporary and permanent failures of requests to a server."""

from __future__ import annotations


class RequestFault(Exception):
    """Raised if a request failed or its answer is unusable, and a retry may succeed."""

    def __init__(
        self,
        message: str,
        kind: str,
        wait_s: float | None = None,
        was_server_reached: bool = True,
        is_permanent: bool = False,  # this server would do the same again: only another one may answer
    ) -> None:
        super().__init__(message)
        self.kind, self.wait_s, self.reached, self.permanent = kind, wait_s, was_server_reached, is_permanent
        self.tries = 1


class InvalidTokenCounts(RequestFault):
    """Raised if a response reports implausible token counts, such as a negative number. The answer is
    discarded.
    """


class RequestRejected(Exception):
    """Raised if the server rejects a request, so that a retry would not help."""
