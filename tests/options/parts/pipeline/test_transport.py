"""What a stage accepts from the wire: numbers that a row can have."""

from __future__ import annotations

import math
import re

import pytest
import torch
from raising import raises

from runner.options.parts.pipeline.transport import SETTINGS, make_sampler, pack_sequences
from runner_base.errors import ConfigError
from runner_engine.decode.sequences import TokenSequence
from runner_engine.sessions.base import Request
from runner_engine.settings.sampling import PARAMETERS, Sampling

DRAWN = Sampling(
    temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.1, frequency_penalty=0.5, presence_penalty=-0.5, seed=3
)  # fmt: skip
CPU = torch.device("cpu")


def packet() -> torch.Tensor:
    """Return the numbers of two rows as they are sent."""
    return pack_sequences(
        [TokenSequence(Request(number, "x"), [7, 8, 9], "", 5, sampling=DRAWN) for number in range(2)],
        0,
        [None] * 2,
    )


def test_the_settings_arrive() -> None:
    for sampling in make_sampler(packet(), 100, CPU).samplings:
        assert sampling.as_numbers == DRAWN.as_numbers


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -3.5, 1e300])
def test_a_number_outside_its_range_is_refused_by_name(name: str, value: float) -> None:
    numbers = packet()
    numbers[1, [*PARAMETERS].index(name)] = torch.tensor(value, dtype=torch.float64).view(torch.int64)
    with pytest.raises(ConfigError, match=f"^{name}={re.escape(str(value))}: must "):
        make_sampler(numbers, 100, CPU)


@pytest.mark.parametrize("length", [-1, 0, 4, 2**62])
def test_a_length_that_the_packet_does_not_have_is_refused(length: int) -> None:
    numbers = packet()
    numbers[1, SETTINGS - 1] = length
    with raises(ConfigError, "bad_value", "length"):
        make_sampler(numbers, 100, CPU)
