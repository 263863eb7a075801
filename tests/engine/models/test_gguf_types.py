"""Blocks of a .gguf file, unpacked here, equal the gguf package's own unpacking bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from gguf_blocks import random_blocks

from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.matmul.blocks import pack_gguf_blocks
from runner_engine.models.gguf_types import TYPES, dequantize_blocks, extract_block_scales


@pytest.mark.parametrize("name", TYPES)
def test_every_weight_is_that_of_the_package(name: str) -> None:
    blocks = random_blocks(name, 75, 768)
    kind = gguf.GGMLQuantizationType[name]
    expected = torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), kind))
    assert torch.equal(dequantize_blocks(blocks, name, 768), expected)
    assert expected.std() > 0


@pytest.mark.parametrize("name", TYPES)
def test_the_scales_of_a_block_are_where_they_are_looked_for(name: str) -> None:
    blocks = random_blocks(name, 2, 256)
    assert extract_block_scales(blocks, name).isfinite().all()
    at = TYPES[name].scales_at
    infinity = [255] if name == "MXFP4" else [0, 0x7C]
    blocks[1, at : at + len(infinity)] = torch.tensor(infinity, dtype=torch.uint8)
    assert not extract_block_scales(blocks, name).isfinite().all()
    assert not dequantize_blocks(blocks, name, 256).isfinite().all()


def test_the_header_knows_the_same_types_with_the_same_sizes() -> None:
    sizes = {name: (number, inputs, nbytes) for number, (name, inputs, nbytes) in gguf_file.BLOCKS.items()}
    assert tuple(TYPES) == gguf_file.KEPT_TYPES
    for name, kind in TYPES.items():
        assert (kind.number, kind.inputs, kind.stored_bytes) == sizes[name]
        assert kind.packed_block_nbytes <= 1.06 * kind.stored_bytes
        one = TensorLocation("a", name, (33, 768), Path("a"), 0, 33 * 768 // kind.inputs * kind.stored_bytes)
        panels = pack_gguf_blocks(
            torch.zeros(33, one.nbytes // 33, dtype=torch.uint8), kind, 768, gguf_file.PANEL_OUTPUTS
        )
        assert gguf_file.compute_packing_overhead_nbytes(one) == panels.nbytes - one.nbytes


@pytest.mark.parametrize("name", [name for name, kind in TYPES.items() if kind.planes])
@pytest.mark.parametrize("width", [16, 32])
def test_bits_are_packed_in_words_as_code_by_code(name: str, width: int) -> None:
    kind, blocks = TYPES[name], random_blocks(name, 75, 768)  # a panel that is not full
    code_by_code = pack_gguf_blocks(blocks, replace(kind, planes=()), 768, width)
    assert torch.equal(pack_gguf_blocks(blocks, kind, 768, width), code_by_code)
    at = kind.planes[0].at
    blocks[70, at] ^= 1
    assert not torch.equal(pack_gguf_blocks(blocks, kind, 768, width), code_by_code)
