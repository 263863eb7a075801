"""Assigns layers to parts, and parts to the pipeline's processes.

A part is a contiguous range of layers, or, by type, one kind of tensor. The embedding
belongs to the first layer, final norm and head to the last, and all count for balancing. A
head tied to the embedding has no own tensor, so the embedding is stored in the first part
and in the last.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner.options.parts.keys import SplitConfig, SplitStrategy
from runner.options.parts.sharding.layout import ModelLayout, classify_tensor
from runner.options.parts.sharding.manifest import Manifest
from runner_base import MIB, ConfigError
from runner_engine import TensorLocation
from runner_engine.checkpoints import DTYPE_BITS

DEFAULT_PARTS = 2
KINDS = ("embedding", "attention", "mlp", "norm", "head", "other")


@dataclass
class PlannedPart:
    """Planned content of a part: its layers and tensors. `sections` maps each tensor type to its size in
    bytes.
    """

    part_id: int
    layers: tuple[int, int] | None  # first and last, both included; None for tensors of one kind
    tensors: list[TensorLocation]
    holds: list[str]
    sections: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def num_params(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)


def make_plan_table(parts: list[PlannedPart]) -> list[dict[str, Any]]:
    stored = sum(part.nbytes for part in parts)
    return [
        {
            "part": part.part_id,
            "layers": "-" if part.layers is None else f"{part.layers[0]}-{part.layers[1]}",
            "also_holds": ", ".join(part.holds) or "-",
            "params": part.num_params,
            "mib": part.nbytes / MIB,
            "share": part.nbytes / stored if stored else 0.0,
        }
        for part in parts
    ]


def plan_checkpoint_parts(layout: ModelLayout, task: SplitConfig) -> list[PlannedPart]:
    """Assign a model's tensors to parts. Raises ConfigError if the requested split is impossible."""
    if task.strategy is SplitStrategy.by_type:
        return _make_parts_by_tensor_type(layout)
    if task.strategy is SplitStrategy.ranges:
        return _make_contiguous_parts(
            layout, _convert_layer_ranges_to_cuts(task.ranges or [], len(layout.layers))
        )
    num_parts = len(task.ratios) if task.ratios else task.num_parts or DEFAULT_PARTS
    count = len(layout.layers)
    if num_parts > count:
        key, value = ("task.ratios", task.ratios) if task.ratios else ("task.num_parts", num_parts)
        raise ConfigError(
            f"the model has only {count} layers, so at most {count} parts are possible",
            key=key,
            value=value,
            code="too_large",
        )
    if task.strategy is SplitStrategy.equal_layers:
        return _make_contiguous_parts(layout, [count * part // num_parts for part in range(num_parts + 1)])
    # the cost of each layer, with the tensors before the first and after the last
    layers = _make_contiguous_parts(layout, list(range(count + 1)))
    costs = [
        part.num_params if task.strategy is SplitStrategy.balanced_params else part.nbytes for part in layers
    ]
    return _make_contiguous_parts(
        layout,
        find_proportional_layer_cuts(costs, task.ratios)
        if task.ratios
        else find_balanced_layer_cuts(costs, num_parts),
    )


def _make_contiguous_parts(layout: ModelLayout, layer_cuts: list[int]) -> list[PlannedPart]:
    count, num_parts = len(layout.layers), len(layer_cuts) - 1
    copied_head = layout.tied if num_parts > 1 else []  # a single part has the embedding already
    also = ["tied head"] if num_parts == 1 and layout.tied else []
    parts = []
    for part_id, (begin, end) in enumerate(itertools.pairwise(layer_cuts)):
        sections = {"layers": [tensor for layer in layout.layers[begin:end] for tensor in layer]}
        if begin == 0:
            sections = {"embedding": layout.first} | sections
        if end == count:
            sections |= {"norm": layout.norm, "head": layout.head, "tied head": copied_head}
        parts.append(_plan_checkpoint_part(part_id, (begin, end - 1), sections, also))
    return parts


def _make_parts_by_tensor_type(layout: ModelLayout) -> list[PlannedPart]:
    """Make one part per tensor type. A tied embedding is stored only in the embedding part."""
    kind_of = {tensor.name: kind for kind in ("norm", "head") for tensor in getattr(layout, kind)}
    groups: dict[str, list[TensorLocation]] = {kind: [] for kind in KINDS}
    for tensor in [*layout.first, *itertools.chain(*layout.layers), *layout.norm, *layout.head]:
        groups[kind_of.get(tensor.name) or classify_tensor(tensor.name)].append(tensor)
    tied = {tensor.name for tensor in layout.tied}
    parts = list[PlannedPart]()
    for kind, tensors in groups.items():
        if tensors:
            also = ["tied head"] if any(tensor.name in tied for tensor in tensors) else []
            parts.append(_plan_checkpoint_part(len(parts), None, {kind: tensors}, also))
    return parts


def _plan_checkpoint_part(
    part_id: int,
    layers: tuple[int, int] | None,
    sections: dict[str, list[TensorLocation]],
    extra_labels: list[str],
) -> PlannedPart:
    """Plan a part of the split, with its tensors sorted by dtype, widest first.

    Torch can only memory-map aligned tensors.
    """
    tensors = sorted(itertools.chain(*sections.values()), key=lambda tensor: -DTYPE_BITS[tensor.dtype])
    sizes = {what: sum(tensor.nbytes for tensor in group) for what, group in sections.items() if group}
    return PlannedPart(
        part_id, layers, tensors, [*(what for what in sizes if what != "layers"), *extra_labels], sizes
    )


def _convert_layer_ranges_to_cuts(layer_ranges: list[str], num_layers: int) -> list[int]:
    """Convert layer ranges to cut positions. Raises ConfigError unless the ranges cover all layers
    exactly once, in order.
    """
    range_error = partial(ConfigError, key="task.ranges", value=f"[{','.join(layer_ranges)}]")
    cuts = [0]
    for span in layer_ranges:
        low, _, high = span.partition("-")
        first, last = int(low), int(high or low)
        if last < first:
            raise range_error(f"{span} runs backwards: give {last}-{first}", code="bad_value")
        if last >= num_layers:
            raise range_error(
                f"{span} is out of range: the model has layers 0-{num_layers - 1}", code="too_large"
            )
        if first < cuts[-1]:
            raise range_error(
                f"layer {first} is in two ranges, or the ranges are not in ascending order", code="conflict"
            )
        if first > cuts[-1]:
            raise range_error(f"no range contains {_describe_layers(cuts[-1], first - 1)}", code="missing")
        cuts.append(last + 1)
    if cuts[-1] != num_layers:
        raise range_error(f"no range contains {_describe_layers(cuts[-1], num_layers - 1)}", code="missing")
    return cuts


def _describe_layers(first: int, last: int) -> str:
    return f"layer {first} is" if first == last else f"layers {first}-{last} are"


def find_balanced_layer_cuts(layer_costs: list[int], num_parts: int) -> list[int]:
    """Cut the layers into ranges so that the most expensive range is as cheap as possible. Returns the
    cut positions.
    """
    low, high = max(layer_costs), sum(layer_costs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _can_partition(layer_costs, num_parts, middle) else (middle + 1, high)
    cuts = [0]
    for left in range(num_parts, 1, -1):
        # of the cuts within the limit, take the one nearest to an even share
        begin = cuts[-1]
        share = sum(layer_costs[begin:]) / left
        ends = [
            (abs(sum(layer_costs[begin:end]) - share), end)
            for end in range(begin + 1, len(layer_costs) - left + 2)
            if sum(layer_costs[begin:end]) <= low and _can_partition(layer_costs[end:], left - 1, low)
        ]
        cuts.append(min(ends)[1])
    return [*cuts, len(layer_costs)]


def _can_partition(layer_costs: list[int], num_parts: int, max_cost: int) -> bool:
    runs, total = 1, 0
    for cost in layer_costs:
        runs, total = (runs, total + cost) if total + cost <= max_cost else (runs + 1, cost)
    return runs <= num_parts


def find_proportional_layer_cuts(layer_costs: list[int], ratios: list[float]) -> list[int]:
    """Cut the layers into ranges whose costs are proportional to the given ratios. Returns the cut positions.

    Minimizes the largest cost/ratio of any part. Uses dynamic programming, because a greedy
    choice is not always optimal for unequal ratios.
    """
    sums = [0, *itertools.accumulate(layer_costs)]
    count, num_parts = len(layer_costs), len(ratios)
    # of the layers before a cut: worst ratio, cuts so far
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for done, ratio in enumerate(ratios, start=1):
        reachable = {}
        for end in range(done, count - (num_parts - done) + 1):
            begins = [begin for begin in best if begin < end]
            worst, begin = min(
                (max(best[begin][0], (sums[end] - sums[begin]) / ratio), begin) for begin in begins
            )
            reachable[end] = (worst, [*best[begin][1], end])
        best = reachable
    return best[count][1]


def assign_parts_to_processes(manifest: Manifest, num_processes: int) -> list[int]:
    """Assign consecutive parts to processes, so that the largest process loads as few bytes as possible.

    Returns the first part of each process, followed by the number of parts.
    """
    if num_processes > manifest.num_parts:
        raise ConfigError(
            (
                f"{manifest.folder} has only {manifest.num_parts} parts, and each process needs one. "
                f"Use at most {manifest.num_parts} processes, or split into more parts"
            ),
            key="model.stages",
            value=num_processes,
            code="too_large",
        )
    return find_balanced_layer_cuts([part.raw.nbytes for part in manifest.parts], num_processes)


def describe_assigned_parts(manifest: Manifest, num_processes: int, rank: int) -> str:
    first, end = assign_parts_to_processes(manifest, num_processes)[rank : rank + 2]
    spans = [part.layers for part in manifest.parts[first:end] if part.layers is not None]
    which = f"part {first}" if end == first + 1 else f"parts {first}-{end - 1}"
    return f"{which}, layers {spans[0][0]}-{spans[-1][1]}"
