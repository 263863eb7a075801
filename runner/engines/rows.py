"""A row: one completion on its way through an engine, and what has become of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from runner.engines.base import Request, Sampling
from runner.engines.local.prefix_tree import Prefix

GREEDY = Sampling(0.0, 1.0, 0, 1.0, 0)


@dataclass(eq=False)
class Row:
    """One of the n choices of a request, one of its branches, or its continuation that is to be scored."""

    request: Request
    prompt: list[int]
    sha256: str
    limit: int  # new tokens it may have
    choice: int = 0  # of the request's n; of a branch: its number from 1 on
    sampling: Sampling = GREEDY  # with nothing left open
    given: list[int] | None = None  # the continuation to score; then nothing is generated
    branch_at: int = 0  # where the branch begins in the prompt
    error: str | None = None  # why it cannot begin
    tokens: list[int] = field(default_factory=list)
    entered_s: float = 0.0
    first_token_s: float = 0.0
    prefix: Prefix | None = None
    generator: torch.Generator | None = None
    places: int = 0  # of its own in the scheduler's store
    sent: str = ""  # text that has gone out as deltas

    @property
    def shared(self) -> int:
        """Prompt tokens whose keys and values lie in prefixes."""
        return self.prefix.length if self.prefix else 0

    def stands_on(self, prefix: Prefix) -> bool:
        """Whether the prompt begins with this prefix."""
        return self.prefix is not None and prefix in self.prefix.path

    @property
    def pending(self) -> list[int]:
        """Tokens that have not been through the model, when the row enters; a continuation's last one need not."""
        return self.prompt[self.shared :] + (self.tokens if self.given is None else self.given[:-1])

    @property
    def need(self) -> int:
        """Own places that it may fill until it ends."""
        more = self.limit if self.given is None else len(self.given) - 1
        return len(self.prompt) - self.shared + more
