"""Every strategy: the best plan where one is asked for, each tensor in its place, and what cannot
be refused by name."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises

from runner.options.parts.keys import ExplainTarget, SplitConfig, SplitStrategy
from runner.options.parts.sharding import strategies
from runner.options.parts.sharding.layout import ModelLayout
from runner.options.parts.sharding.strategies import (
    PlannedPart,
    find_balanced_layer_cuts,
    find_proportional_layer_cuts,
    plan_checkpoint_parts,
)
from runner_base.errors import Code, ConfigError
from runner_engine.checkpoints.weight_files import DTYPE_BITS, TensorLocation

pytestmark = pytest.mark.slow

NAMES = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight", "mixer.state")


def tensor(name: str, params: int, dtype: str = "F16") -> TensorLocation:
    return TensorLocation(name, dtype, (params,), Path("x"), 0, params * DTYPE_BITS[dtype] // 8)


@st.composite
def layouts(draw: st.DrawFn) -> ModelLayout:
    """A random model: layers of any sizes and dtypes, with or without embedding, norm and a head,
    tied or its own."""
    size, dtype = st.integers(0, 40), st.sampled_from(["F32", "BF16", "I8"])
    layers = [
        [tensor(f"model.layers.{number}.{name}", draw(size), draw(dtype)) for name in draw(st.sets(st.sampled_from(NAMES), min_size=1))]
        for number in range(draw(st.integers(1, 9)))
    ]  # fmt: skip
    first = [tensor("model.embed_tokens.weight", draw(st.integers(1, 200)))] * draw(st.integers(0, 1))
    norm = [tensor("model.norm.weight", draw(size))] * draw(st.integers(0, 1))
    kind = draw(st.sampled_from(["tied", "own", "none"]))
    head = [tensor("lm_head.weight", draw(st.integers(1, 200)))] if kind == "own" else []
    return ModelLayout("model.layers", layers, first, norm, head, first if kind == "tied" else [])


@st.composite
def tasks(draw: st.DrawFn, count: int) -> SplitConfig:
    """A task that a model of so many layers allows."""
    num_parts = draw(st.integers(1, count))
    strategy = draw(st.sampled_from(SplitStrategy))
    if strategy is SplitStrategy.by_type:
        return SplitConfig(strategy=strategy)
    if strategy is SplitStrategy.ranges:
        inner = draw(st.lists(st.integers(1, count - 1), unique=True)) if count > 1 else []
        cuts = [0, *sorted(inner), count]
        return SplitConfig(strategy=strategy, ranges=[f"{a}-{b - 1}" for a, b in itertools.pairwise(cuts)])
    if strategy is SplitStrategy.ratios:
        weights = draw(st.lists(st.integers(1, 9), min_size=num_parts, max_size=num_parts))
        return SplitConfig(strategy=strategy, ratios=[weight / sum(weights) for weight in weights])
    return SplitConfig(strategy=strategy, num_parts=num_parts)


def everything(layout: ModelLayout) -> list[TensorLocation]:
    return [*layout.first, *itertools.chain(*layout.layers), *layout.norm, *layout.head]


def best_by_dynamic_program(costs: list[int], num_parts: int) -> int:
    """Least possible largest run, the plain O(N·L²) way."""
    best: list[float] = [0, *[float("inf")] * len(costs)]
    for _ in range(num_parts):
        best = [
            min((max(best[begin], sum(costs[begin:end])) for begin in range(end)), default=float("inf"))
            for end in range(len(costs) + 1)
        ]
    return int(best[-1])


@pytest.mark.thorough
@settings(max_examples=300)
@given(st.data())
def test_every_strategy_covers_each_tensor_once(data: st.DataObject) -> None:
    layout = data.draw(layouts())
    task = data.draw(tasks(len(layout.layers)))
    parts = plan_checkpoint_parts(layout, task)
    assert [part.part_id for part in parts] == list(range(len(parts)))
    stored = Counter(one.name for part in parts for one in part.tensors)
    expected = Counter(one.name for one in everything(layout))
    if layout.tied and task.strategy is not SplitStrategy.by_type and len(parts) > 1:
        expected[layout.tied[0].name] += 1
        assert layout.tied[0] in parts[0].tensors
        assert layout.tied[0] in parts[-1].tensors
    assert stored == expected
    assert all(part.tensors for part in parts)
    assert [sum(part.sections.values()) for part in parts] == [part.nbytes for part in parts]
    if task.strategy is SplitStrategy.by_type:
        assert all(part.layers is None for part in parts)
        return
    ranges = [range(part.layers[0], part.layers[1] + 1) for part in parts if part.layers]
    assert [layer for one in ranges for layer in one] == list(range(len(layout.layers)))
    for part, numbers in zip(parts, ranges, strict=True):
        inside = {one.name for number in numbers for one in layout.layers[number]}
        assert inside <= {one.name for one in part.tensors}
        widths = [DTYPE_BITS[one.dtype] for one in part.tensors]
        assert widths == sorted(widths, reverse=True), "torch can only map aligned tensors"


@settings(max_examples=300)
@given(st.data())
def test_balanced_parts_equal_the_dynamic_program(data: st.DataObject) -> None:
    layout = data.draw(layouts())
    num_parts = data.draw(st.integers(1, len(layout.layers)))
    for strategy, measure in (
        (SplitStrategy.balanced_bytes, lambda one: one.nbytes),
        (SplitStrategy.balanced_params, lambda one: one.num_elements),
    ):
        parts = plan_checkpoint_parts(layout, SplitConfig(strategy=strategy, num_parts=num_parts))
        costs = [sum(map(measure, layer)) for layer in layout.layers]
        costs[0] += sum(map(measure, layout.first))
        costs[-1] += sum(map(measure, [*layout.norm, *layout.head, *(layout.tied if num_parts > 1 else [])]))
        largest = max(sum(map(measure, part.tensors)) for part in parts)
        assert len(parts) == num_parts
        assert largest == best_by_dynamic_program(costs, num_parts)


@pytest.mark.thorough
@settings(max_examples=300)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.data())
def test_cuts_make_the_largest_run_as_small_as_can_be(costs: list[int], data: st.DataObject) -> None:
    num_parts = data.draw(st.integers(1, len(costs)))
    cuts = find_balanced_layer_cuts(costs, num_parts)
    runs = list(itertools.pairwise(cuts))
    assert (cuts[0], cuts[-1], len(runs)) == (0, len(costs), num_parts)
    assert all(begin < end for begin, end in runs)
    assert max(sum(costs[begin:end]) for begin, end in runs) == best_by_dynamic_program(costs, num_parts)


@pytest.mark.thorough
@settings(max_examples=200)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.data())
def test_ratios_are_kept_to_as_well_as_any_cut_can(costs: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=len(costs)))
    ratios = [weight / sum(weights) for weight in weights]

    def worst(cuts: tuple[int, ...]) -> float:
        return max(
            sum(costs[a:b]) / ratio for (a, b), ratio in zip(itertools.pairwise(cuts), ratios, strict=True)
        )

    inner = itertools.combinations(range(1, len(costs)), len(ratios) - 1)
    assert worst(tuple(find_proportional_layer_cuts(costs, ratios))) == pytest.approx(
        min(worst((0, *cuts, len(costs))) for cuts in inner)
    )


def test_taking_all_that_fits_would_not_keep_to_these_ratios() -> None:
    assert find_proportional_layer_cuts([1, 1, 50, 1], [10 / 111, 1 / 111, 100 / 111]) == [0, 1, 2, 4]


def test_embedding_and_head_enter_the_balance() -> None:
    """A tied 1B model, 16 layers of 122 MB and an embedding of 525 MB, goes 0/2/8/14/16."""
    assert find_balanced_layer_cuts([525 + 122, *[122] * 14, 122 + 525], 4) == [0, 2, 8, 14, 16]
    assert find_balanced_layer_cuts([1] * 9, 4) == [0, 2, 4, 6, 9]


# ------------------------------------------------------------------------------------- one model,
# by hand


def model(layers: int = 4) -> ModelLayout:
    embedding = tensor("model.embed_tokens.weight", 100)
    blocks = [[tensor(f"model.layers.{n}.{name}", 10) for name in NAMES] for n in range(layers)]
    return ModelLayout("model.layers", blocks, [embedding], [tensor("model.norm.weight", 4)], [], [embedding])


def spans(parts: list[PlannedPart]) -> list[Any]:
    return [part.layers for part in parts]


def test_what_each_strategy_makes_of_one_model() -> None:
    assert spans(plan_checkpoint_parts(model(), SplitConfig())) == [(0, 1), (2, 3)]
    equal = plan_checkpoint_parts(model(5), SplitConfig(strategy=SplitStrategy.equal_layers, num_parts=3))
    assert spans(equal) == [(0, 0), (1, 2), (3, 4)]
    ratios = plan_checkpoint_parts(model(), SplitConfig(strategy=SplitStrategy.ratios, ratios=[0.4, 0.6]))
    assert spans(ratios) == [(0, 0), (1, 3)]
    ranges = plan_checkpoint_parts(model(), SplitConfig(strategy=SplitStrategy.ranges, ranges=["0-2", "3"]))
    assert spans(ranges) == [(0, 2), (3, 3)]
    assert [part.holds for part in ranges] == [["embedding"], ["norm", "tied head"]]
    by_type = plan_checkpoint_parts(model(), SplitConfig(strategy=SplitStrategy.by_type))
    assert [part.holds for part in by_type] == [
        ["embedding", "tied head"],
        ["attention"],
        ["mlp"],
        ["norm"],
        ["other"],
    ]
    assert "model.norm.weight" in {one.name for one in by_type[3].tensors}
    assert spans(by_type) == [None] * 5


@pytest.mark.parametrize(
    ("task", "code", "key"),
    [
        (SplitConfig(num_parts=5), "too_large", "task.num_parts"),
        (SplitConfig(strategy=SplitStrategy.ratios, ratios=[0.2] * 5), "too_large", "task.ratios"),
        (SplitConfig(strategy=SplitStrategy.ranges, ranges=["0-1", "3"]), "missing", "task.ranges"),
        (SplitConfig(strategy=SplitStrategy.ranges, ranges=["1-3"]), "missing", "task.ranges"),
        (SplitConfig(strategy=SplitStrategy.ranges, ranges=["0-1"]), "missing", "task.ranges"),
        (SplitConfig(strategy=SplitStrategy.ranges, ranges=["0-2", "2-3"]), "conflict", "task.ranges"),
        (SplitConfig(strategy=SplitStrategy.ranges, ranges=["2-3", "0-1"]), "missing", "task.ranges"),
        (SplitConfig(strategy=SplitStrategy.ranges, ranges=["0-1", "2-4"]), "too_large", "task.ranges"),
        (SplitConfig(strategy=SplitStrategy.ranges, ranges=["0-1", "3-2"]), "bad_value", "task.ranges"),
    ],
)
def test_what_the_model_does_not_allow_is_refused(task: SplitConfig, code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        plan_checkpoint_parts(model(), task)


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"num_parts": 0}, "bad_value", "task.num_parts"),
        ({"output_dir": " "}, "bad_value", "task.output_dir"),
        ({"ratios": [0.5, 0.5]}, "no_effect", "task.ratios"),
        ({"ranges": ["0-3"]}, "no_effect", "task.ranges"),
        ({"strategy": SplitStrategy.ratios}, "missing", "task.ratios"),
        ({"strategy": SplitStrategy.ranges}, "missing", "task.ranges"),
        ({"strategy": SplitStrategy.ratios, "ratios": [0.5, 0.4]}, "bad_value", "task.ratios"),
        ({"strategy": SplitStrategy.ratios, "ratios": [1.5, -0.5]}, "bad_value", "task.ratios"),
        ({"strategy": SplitStrategy.ratios, "ratios": [0.0, 1.0]}, "bad_value", "task.ratios"),
        ({"strategy": SplitStrategy.ratios, "ratios": [0.5, 0.5], "num_parts": 3}, "mismatch", "task.num_parts"),
        ({"strategy": SplitStrategy.ranges, "ranges": ["0-1"], "num_parts": 2}, "mismatch", "task.num_parts"),
        ({"strategy": SplitStrategy.ranges, "ranges": ["a-b"]}, "bad_value", "task.ranges"),
        ({"strategy": SplitStrategy.ranges, "ranges": ["-1"]}, "bad_value", "task.ranges"),
        ({"strategy": SplitStrategy.by_type, "num_parts": 3}, "conflict", "task.num_parts"),
        ({"strategy": SplitStrategy.by_type, "explain": ExplainTarget.vllm}, "conflict", "task.explain"),
    ],
)  # fmt: skip
def test_keys_that_contradict_each_other_are_refused(keys: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        SplitConfig(**keys)


def test_parts_default_to_two() -> None:
    assert len(plan_checkpoint_parts(model(), SplitConfig())) == strategies.DEFAULT_PARTS == 2
