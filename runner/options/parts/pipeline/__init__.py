"""Pipeline engine: runs the parts of a split checkpoint in several processes."""

from __future__ import annotations

from runner_engine import Capability

CAPABILITIES = (
    frozenset(Capability)
    - {
        Capability.grammar,  # tokens are picked where no tokenizer is
        Capability.branches,
        Capability.logprobs,
        Capability.distributions,
        Capability.token_scores,
        Capability.drawn_tokens,
        Capability.continuing,
        Capability.adapters,
        Capability.own_memory,  # processes may run on other machines; the table of the parts has the memory of each
    }
)
