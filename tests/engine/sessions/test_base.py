"""What a request needs, and what it takes from the generation group."""

from __future__ import annotations

import pytest

from runner_engine.sessions.base import Capability, Message, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.sampling import Sampling


def test_the_generation_group_supplies_the_defaults_of_a_request() -> None:
    generation = GenerationConfig(temperature=0.5, top_p=0.9, top_k=7, repetition_penalty=1.1)
    assert Sampling().fill_unset_sampling_parameters(generation, 3) == Sampling(
        temperature=0.5, top_p=0.9, top_k=7, repetition_penalty=1.1, seed=3
    )
    assert Sampling(temperature=0.0, top_k=0, seed=0).fill_unset_sampling_parameters(
        generation, 3
    ) == Sampling(temperature=0.0, top_p=0.9, top_k=0, repetition_penalty=1.1, seed=0)


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        (Request(0, "x"), set()),
        (Request(0, (1, 2)), {Capability.token_ids}),
        (Request(0, (Message("user", "x"),)), {Capability.chat}),
        (Request(0, "x", branches=("a",)), {Capability.branches}),
        (Request(0, "x", n=2, deltas=True), {Capability.several, Capability.deltas}),
        (Request(0, "x", sampling=Sampling(seed=1)), {Capability.sampling}),
        (Request(0, "x", continuation=""), {Capability.logprobs}),
        (
            Request(0, "x", continuation="", on_logprobs=print),
            {Capability.logprobs, Capability.distributions},
        ),
    ],
)
def test_what_a_request_needs(request_: Request, needs: set[Capability]) -> None:
    assert request_.required_capabilities == needs
