"""Exceptions for temporary and permanent failures of a request to a server."""

from __future__ import annotations


class RequestFault(Exception):
    """A request got no usable answer. Another try may succeed."""

    def __init__(
        self,
        message: str,
        kind: str,
        wait_s: float | None = None,
        reached: bool = True,
        permanent: bool = False,  # this server would do the same again: only another one may answer
    ) -> None:
        super().__init__(message)
        self.kind, self.wait_s, self.reached, self.permanent = kind, wait_s, reached, permanent
        self.tries = 1


class InvalidTokenCounts(RequestFault):
    """The answer is complete but reports impossible token counts, so it is rejected."""


class RequestRejected(Exception):
    """The server rejects this request. Another try would not help."""
