"""The pipeline engine: the parts of a split over several processes."""

from __future__ import annotations

from runner.engines.base import Capability

CAPABILITIES = frozenset(Capability) - {
    Capability.branches,
    Capability.logprobs,
    Capability.distributions,
    Capability.own_memory,  # processes may run elsewhere, and what each takes stands in the table of the parts
}
