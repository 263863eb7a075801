"""Shared by the tests of attention: the ways to compute it, and prefixes of a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from runner_engine.attention.attention import PrefixUse
from runner_engine.kernels import native
from runner_engine.kv_cache.kv_store import KvCacheSpec
from runner_engine.kv_cache.shared_kv import SharedKv
from runner_engine.kv_cache.sliding_windows import Window

# for outputs of about 1; bfloat16 has 8 bits
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")
ON_GPU = " on a GPU"
WAYS = pytest.mark.parametrize(
    "way", ["kernels", "torch", "sdpa", *(pytest.param(one + ON_GPU, marks=GPU) for one in ("torch", "sdpa"))]
)


def heads_for(
    way: str,
    layers: int,
    kv_heads: int,
    group: int,
    dim: int,
    dtype: torch.dtype,
    windows: tuple[Window | None, ...] = (),
) -> KvCacheSpec:
    """Return heads on the way's device, computed by SDPA if that is the way."""
    device = torch.device("cuda" if way.endswith(ON_GPU) else "cpu")
    return KvCacheSpec(layers, kv_heads, group, dim, dtype, device, windows, by_sdpa=way.startswith("sdpa"))


@pytest.fixture(autouse=True)
def on_the_device_of_the_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make the tensors of a test where its way computes; a module that imports this has it for all
    its tests."""
    way = getattr(request.node, "callspec", None) and request.node.callspec.params.get("way", "")
    with torch.device("cuda" if str(way).endswith(ON_GPU) else "cpu"):
        yield


def kernels_or_none(way: str) -> native.Kernels | None:
    """Return this processor's kernels for the way `kernels`, else none."""
    if way != "kernels":
        return None
    kernels = native.load_kernels()
    if kernels is None:
        pytest.skip("there is no C compiler here")
    return kernels


def ints(numbers: list[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def random(generator: torch.Generator, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, device="cpu").to(torch.get_default_device(), dtype)


def shared_kv(
    heads: KvCacheSpec,
    kernels: Any,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    is_beginning: bool = True,
) -> SharedKv:
    length = keys[0].shape[1]
    kv = SharedKv.allocate(heads, length, kernels, is_beginning)
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        keys_here, values_here = (
            heads.apply_hadamard_rotation_if_enabled(some.transpose(0, 1)) for some in (key, value)
        )
        kv.store.write(layer, keys_here, values_here, ints([0] * length), ints([*range(length)]))
    return kv


def use_of(prefix: SharedKv, rows: list[int], tokens: int) -> PrefixUse:
    row_of = [-1] * tokens
    for number, at in enumerate(rows):
        row_of[at] = number
    return PrefixUse(prefix, None if len(rows) == tokens else torch.tensor(rows), ints(row_of), len(rows))
