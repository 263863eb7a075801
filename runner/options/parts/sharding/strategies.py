"""Which layers go to which part, and which parts to which process of a pipeline.

Parts are contiguous runs of layers, or, by type, one part for each kind of tensor.

Embeddings go with the first layer, final norm and head with the last one; all of them count when
parts are balanced. A head that is tied to the embedding has no tensor of its own, so the embedding
is stored in the first part and in the last.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner.options.parts.keys import SplitConfig, Strategy
from runner.options.parts.sharding.layout import Layout, layer_type
from runner.options.parts.sharding.manifest import Manifest
from runner_base import MIB, ConfigError
from runner_engine import Tensor
from runner_engine.checkpoints import DTYPE_BITS

DEFAULT_PARTS = 2
KINDS = ("embedding", "attention", "mlp", "norm", "head", "other")


@dataclass
class PlannedPart:
    """The content of a planned part; `holds` names what it has besides layers, `sections` the bytes
    of everything."""

    part_id: int
    layers: tuple[int, int] | None  # first and last, both included; None for tensors of one kind
    tensors: list[Tensor]
    holds: list[str]
    sections: dict[str, int]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def params(self) -> int:
        """Numbers in its tensors."""
        return sum(tensor.params for tensor in self.tensors)


def plan_rows(parts: list[PlannedPart]) -> list[dict[str, Any]]:
    """One row per part: layers, other content, parameters, bytes, share."""
    stored = sum(part.nbytes for part in parts)
    return [
        {
            "part": part.part_id,
            "layers": "-" if part.layers is None else f"{part.layers[0]}-{part.layers[1]}",
            "also_holds": ", ".join(part.holds) or "-",
            "params": part.params,
            "mib": part.nbytes / MIB,
            "share": part.nbytes / stored if stored else 0.0,
        }
        for part in parts
    ]


def plan_parts(layout: Layout, task: SplitConfig) -> list[PlannedPart]:
    """Decide which part gets which tensors; ConfigError if the model's layers do not allow the
    plan."""
    if task.strategy is Strategy.by_type:
        return _by_type(layout)
    if task.strategy is Strategy.ranges:
        return _contiguous(layout, _cuts_of(task.ranges or [], len(layout.layers)))
    num_parts = len(task.ratios) if task.ratios else task.num_parts or DEFAULT_PARTS
    count = len(layout.layers)
    if num_parts > count:
        key, value = ("task.ratios", task.ratios) if task.ratios else ("task.num_parts", num_parts)
        raise ConfigError(
            f"the model has {count} layers, so {count} parts at most", key=key, value=value, code="too_large"
        )
    if task.strategy is Strategy.equal_layers:
        return _contiguous(layout, [count * part // num_parts for part in range(num_parts + 1)])
    # the cost of each layer, with the tensors before the first and after the last
    layers = _contiguous(layout, list(range(count + 1)))
    costs = [part.params if task.strategy is Strategy.balanced_params else part.nbytes for part in layers]
    return _contiguous(layout, proportion(costs, task.ratios) if task.ratios else balance(costs, num_parts))


def _contiguous(layout: Layout, cuts: list[int]) -> list[PlannedPart]:
    """Make the parts between the cuts."""
    count, num_parts = len(layout.layers), len(cuts) - 1
    copied_head = layout.tied if num_parts > 1 else []  # a single part has the embedding already
    also = ["tied head"] if num_parts == 1 and layout.tied else []
    parts = []
    for part_id, (begin, end) in enumerate(itertools.pairwise(cuts)):
        sections = {"layers": [tensor for layer in layout.layers[begin:end] for tensor in layer]}
        if begin == 0:
            sections = {"embedding": layout.first} | sections
        if end == count:
            sections |= {"norm": layout.norm, "head": layout.head, "tied head": copied_head}
        parts.append(_part(part_id, (begin, end - 1), sections, also))
    return parts


def _by_type(layout: Layout) -> list[PlannedPart]:
    """Make a part for each kind of tensor; a tied embedding is stored once, as embedding."""
    kind_of = {tensor.name: kind for kind in ("norm", "head") for tensor in getattr(layout, kind)}
    groups: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for tensor in [*layout.first, *itertools.chain(*layout.layers), *layout.norm, *layout.head]:
        groups[kind_of.get(tensor.name) or layer_type(tensor.name)].append(tensor)
    tied = {tensor.name for tensor in layout.tied}
    parts = list[PlannedPart]()
    for kind, tensors in groups.items():
        if tensors:
            also = ["tied head"] if any(tensor.name in tied for tensor in tensors) else []
            parts.append(_part(len(parts), None, {kind: tensors}, also))
    return parts


def _part(
    part_id: int, layers: tuple[int, int] | None, sections: dict[str, list[Tensor]], also: list[str]
) -> PlannedPart:
    """Make a part, wide types first, as safetensors itself orders them: torch can map only aligned
    tensors."""
    tensors = sorted(itertools.chain(*sections.values()), key=lambda tensor: -DTYPE_BITS[tensor.dtype])
    sizes = {what: sum(tensor.nbytes for tensor in group) for what, group in sections.items() if group}
    return PlannedPart(
        part_id, layers, tensors, [*(what for what in sizes if what != "layers"), *also], sizes
    )


def _cuts_of(ranges: list[str], count: int) -> list[int]:
    """Turn ranges of layers into cuts; they must name every layer once, in order."""
    range_error = partial(ConfigError, key="task.ranges", value=f"[{','.join(ranges)}]")
    cuts = [0]
    for span in ranges:
        low, _, high = span.partition("-")
        first, last = int(low), int(high or low)
        if last < first:
            raise range_error(f"{span} runs backwards: give {last}-{first}", code="bad_value")
        if last >= count:
            raise range_error(f"{span} is out of range: the model has layers 0-{count - 1}", code="too_large")
        if first < cuts[-1]:
            raise range_error(f"layer {first} is in two ranges, or they are not in order", code="conflict")
        if first > cuts[-1]:
            raise range_error(f"{_layers(cuts[-1], first - 1)} in no range", code="missing")
        cuts.append(last + 1)
    if cuts[-1] != count:
        raise range_error(f"{_layers(cuts[-1], count - 1)} in no range", code="missing")
    return cuts


def _layers(first: int, last: int) -> str:
    return f"layer {first} is" if first == last else f"layers {first}-{last} are"


def balance(costs: list[int], num_parts: int) -> list[int]:
    """Return the cuts 0..len(costs) of num_parts non-empty runs whose largest sum is as small as
    possible."""
    low, high = max(costs), sum(costs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(costs, num_parts, middle) else (middle + 1, high)
    cuts = [0]
    for left in range(num_parts, 1, -1):
        # of the cuts within the limit, take the one nearest to an even share
        begin = cuts[-1]
        share = sum(costs[begin:]) / left
        ends = [
            (abs(sum(costs[begin:end]) - share), end)
            for end in range(begin + 1, len(costs) - left + 2)
            if sum(costs[begin:end]) <= low and _fits(costs[end:], left - 1, low)
        ]
        cuts.append(min(ends)[1])
    return [*cuts, len(costs)]


def _fits(costs: list[int], num_parts: int, limit: int) -> bool:
    """Tell whether num_parts runs or fewer suffice when none may exceed the limit (>= every single
    cost)."""
    runs, total = 1, 0
    for cost in costs:
        runs, total = (runs, total + cost) if total + cost <= limit else (runs + 1, cost)
    return runs <= num_parts


def proportion(costs: list[int], ratios: list[float]) -> list[int]:
    """Return the cuts for which the largest ratio of a part's cost to its share is as small as
    possible.

    By dynamic programming: with unequal shares, a greedy choice is not always the best.
    """
    sums = [0, *itertools.accumulate(costs)]
    count, num_parts = len(costs), len(ratios)
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


def part_cuts(manifest: Manifest, processes: int) -> list[int]:
    """Return the first part of each process, and the number of parts; the largest process is as
    small as possible."""
    if processes > manifest.num_parts:
        raise ConfigError(
            f"each process runs at least one part, and {manifest.folder} has "
            f"{manifest.num_parts}: use at most {manifest.num_parts}, or split into more",
            key="model.stages",
            value=processes,
            code="too_large",
        )
    return balance([part.raw.nbytes for part in manifest.parts], processes)


def parts_of(manifest: Manifest, processes: int, rank: int) -> str:
    """Name the parts and layers of a process, for messages."""
    first, end = part_cuts(manifest, processes)[rank : rank + 2]
    spans = [part.layers for part in manifest.parts[first:end] if part.layers is not None]
    which = f"part {first}" if end == first + 1 else f"parts {first}-{end - 1}"
    return f"{which}, layers {spans[0][0]}-{spans[-1][1]}"
