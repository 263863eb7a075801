"""How a request to a server may fail: in a way that another try may mend, or in one that stays."""

from __future__ import annotations


class Fault(Exception):
    """No answer came, and another try may bring one."""

    def __init__(self, why: str, kind: str, wait_s: float | None = None, reached: bool = True) -> None:
        super().__init__(why)
        self.kind, self.wait_s, self.reached = kind, wait_s, reached
        self.tries = 1


class Miscounted(Fault):
    """The answer came with numbers of tokens that cannot be true, and is none, although its text is whole."""


class RequestRejected(Exception):
    """The server will not answer this request, however often it is put."""
