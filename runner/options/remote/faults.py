"""How a request to a server may fail: temporarily or permanently."""

from __future__ import annotations


class Fault(Exception):
    """No answer came; another try may succeed."""

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


class Miscounted(Fault):
    """The answer came with impossible token counts, so it is rejected although its text is
    complete."""


class RequestRejected(Exception):
    """The server rejects this request; another try would not help."""
