"""Tables of cos and sin are made some positions at a time, to the bits of a family's whole table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from runner_base import machine
from runner_engine.decode.layouts import rotations
from runner_engine.decode.layouts.rotations import ANGLES, RopeTable, Rotation
from runner_engine.kernels.c_interface import RopePoints

MIB = 2**20
POSITIONS = 2 * rotations.POSITIONS_AT_ONCE + 77
LONG = {"long_factor": [4.0] * 32, "short_factor": [1.0] * 32, "factor": 4.0}
SCALED: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 1024},
    "longrope": LONG | {"original_max_position_embeddings": 1024},
}


def rope_of(kind: str) -> RopeTable:
    """Return the table of a Llama with heads of 64 numbers, trained for 1,024 positions."""
    parameters = {"rope_type": kind, "rope_theta": 10000.0} | SCALED[kind]
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=1024,
        rope_parameters=parameters,
    )  # fmt: skip
    return RopeTable(LlamaRotaryEmbedding(config), None)


def whole(rotation: Rotation, kind: str, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin of all positions at once."""
    with torch.inference_mode():
        angles = rope_of(kind).compute_rope_angles(torch.zeros(1), torch.arange(positions))
        return rotation.select_cos_or_sin_per_pair(angles.cos), rotation.select_cos_or_sin_per_pair(
            angles.sin
        )


@pytest.fixture
def rotation() -> Rotation:
    return Rotation(64, RopePoints.points_in_halves, next(iter(ANGLES)))


@pytest.mark.parametrize("kind", list(SCALED))
def test_a_table_has_the_bits_of_the_whole(kind: str, rotation: Rotation) -> None:
    found = rotation.build_tables(rope_of(kind), torch.zeros(1), POSITIONS)
    wanted = whole(rotation, kind, POSITIONS)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_angles_that_depend_on_the_longest_position_are_seen(kind: str, rotation: Rotation) -> None:
    """The control: what a shorter table has for the same positions are other numbers."""
    shorter = rotation.build_tables(rope_of(kind), torch.zeros(1), 1024)
    assert not torch.allclose(shorter[0], whole(rotation, kind, POSITIONS)[0][:1024], atol=1e-3)


def test_little_memory_is_taken_beside_what_is_kept(rotation: Rotation) -> None:
    """The tables of 32k positions take 8 MiB; at once they took 44."""
    rope = rope_of("default")
    rotation.build_tables(rope, torch.zeros(1), 4096)
    machine.reset_peak_rss()
    machine.reset_peak_rss_counter()
    before = machine.rss_mib()
    tables = rotation.build_tables(rope, torch.zeros(1), 32768)
    assert sum(table.nbytes for table in tables) == 8 * MIB
    assert machine.peak_rss_mib() - before < 24
