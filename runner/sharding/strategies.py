"""Which layers go to which part. Contiguous runs of layers, or, by type, one part for each kind of tensor.

Embeddings go with the first layer, final norm and head with the last one, and they count where parts are balanced.
A head that is tied to the embedding has no tensor of its own: the embedding is then stored in the first part and in the
last one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runner.checkpoints.layout import Layout, layer_type
from runner.checkpoints.weight_files import DTYPE_BITS, Tensor
from runner.config.task import SplitConfig, Strategy
from runner.core.errors import ConfigError

DEFAULT_PARTS = 2
KINDS = ("embedding", "attention", "mlp", "norm", "head", "other")


@dataclass
class PlannedPart:
    """What one part will hold; `holds` names its content besides layers, `sections` all of it with its bytes."""

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


def plan_parts(layout: Layout, task: SplitConfig) -> list[PlannedPart]:
    """Decide which part gets which tensors; refuse what the model's layers do not allow."""
    if task.strategy is Strategy.by_type:
        return _by_type(layout)
    if task.strategy is Strategy.ranges:
        return _contiguous(layout, _cuts_of(task.ranges or [], len(layout.layers)))
    num_parts = len(task.ratios) if task.ratios else task.num_parts or DEFAULT_PARTS
    count = len(layout.layers)
    if num_parts > count:
        key = f"task.ratios={task.ratios}" if task.ratios else f"task.num_parts={num_parts}"
        raise ConfigError(f"{key}: the model has {count} layers, so {count} parts at most")
    if task.strategy is Strategy.equal_layers:
        return _contiguous(layout, [count * part // num_parts for part in range(num_parts + 1)])
    measure = _params if task.strategy is Strategy.balanced_params else _nbytes
    costs = costs_of(layout, num_parts, measure)
    return _contiguous(layout, proportion(costs, task.ratios) if task.ratios else balance(costs, num_parts))


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _params(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.params for tensor in tensors)


def _last(layout: Layout, num_parts: int) -> list[Tensor]:
    """What follows the last layer; a tied embedding is stored again only where the first part is another one."""
    return [*layout.norm, *layout.head, *(layout.tied if num_parts > 1 else [])]


def costs_of(layout: Layout, num_parts: int, measure: Callable[[Iterable[Tensor]], int] = _nbytes) -> list[int]:
    """What each layer weighs, with what lies before the first and after the last."""
    costs = [measure(layer) for layer in layout.layers]
    costs[0] += measure(layout.first)
    costs[-1] += measure(_last(layout, num_parts))
    return costs


def _contiguous(layout: Layout, cuts: list[int]) -> list[PlannedPart]:
    """Make the parts that lie between the cuts."""
    count, num_parts = len(layout.layers), len(cuts) - 1
    parts = []
    for part_id, (begin, end) in enumerate(itertools.pairwise(cuts)):
        sections = {"layers": [tensor for layer in layout.layers[begin:end] for tensor in layer]}
        if begin == 0:
            sections = {"embedding": layout.first} | sections
        if end == count:
            sections |= {"norm": layout.norm, "head": layout.head}
            sections |= {"tied head": layout.tied if num_parts > 1 else []}
        tensors = [tensor for section in sections.values() for tensor in section]
        holds = [what for what, found in sections.items() if found and what != "layers"]
        if num_parts == 1 and layout.tied:
            holds.append("tied head")  # the embedding that is there already
        parts.append(PlannedPart(part_id, (begin, end - 1), _aligned(tensors), holds, _sizes(sections)))
    return parts


def _by_type(layout: Layout) -> list[PlannedPart]:
    """Make a part for each kind of tensor that there is; a tied embedding is stored once, as embedding."""
    place = {tensor.name: kind for kind in ("norm", "head") for tensor in getattr(layout, kind)}
    groups: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for tensor in [*layout.first, *itertools.chain(*layout.layers), *layout.norm, *layout.head]:
        groups[place.get(tensor.name) or layer_type(tensor.name)].append(tensor)
    found = [(kind, tensors) for kind, tensors in groups.items() if tensors]
    tied = {tensor.name for tensor in layout.tied}
    return [
        PlannedPart(part_id, None, _aligned(tensors), _held(kind, tensors, tied), {kind: _nbytes(tensors)})
        for part_id, (kind, tensors) in enumerate(found)
    ]


def _held(kind: str, tensors: list[Tensor], tied: set[str]) -> list[str]:
    return [kind, *(["tied head"] if any(tensor.name in tied for tensor in tensors) else [])]


def _sizes(sections: dict[str, list[Tensor]]) -> dict[str, int]:
    return {what: _nbytes(tensors) for what, tensors in sections.items() if tensors}


def _aligned(tensors: list[Tensor]) -> list[Tensor]:
    """Put wide types first, as safetensors itself writes them: torch can only map aligned tensors."""
    return sorted(tensors, key=lambda tensor: -DTYPE_BITS[tensor.dtype])


def _cuts_of(ranges: list[str], count: int) -> list[int]:
    """Turn ranges of layers into cuts; they must name every layer once, in order."""
    key = f"task.ranges=[{','.join(ranges)}]"
    cuts = [0]
    for given in ranges:
        low, _, high = given.partition("-")
        first, last = int(low), int(high or low)
        if last < first:
            raise ConfigError(f"{key}: {given} runs backwards: give {last}-{first}")
        if last >= count:
            raise ConfigError(f"{key}: {given} is out of range: the model has layers 0-{count - 1}")
        if first < cuts[-1]:
            raise ConfigError(f"{key}: layer {first} is in two ranges, or they are not in order")
        if first > cuts[-1]:
            raise ConfigError(f"{key}: {_layers(cuts[-1], first - 1)} in no range")
        cuts.append(last + 1)
    if cuts[-1] != count:
        raise ConfigError(f"{key}: {_layers(cuts[-1], count - 1)} in no range")
    return cuts


def _layers(first: int, last: int) -> str:
    return f"layer {first} is" if first == last else f"layers {first}-{last} are"


def balance(costs: list[int], num_parts: int) -> list[int]:
    """Return the cuts 0..len(costs) of num_parts non-empty runs whose largest sum is the least possible."""
    low, high = max(costs), sum(costs)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(costs, num_parts, middle) else (middle + 1, high)
    cuts = [0]
    for left in range(num_parts, 1, -1):
        # among the cuts that keep to the limit, the one nearest to an even share
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
    """Tell whether num_parts runs or fewer suffice when none may exceed the limit (>= every single cost)."""
    runs, total = 1, 0
    for cost in costs:
        runs, total = (runs, total + cost) if total + cost <= limit else (runs + 1, cost)
    return runs <= num_parts


def proportion(costs: list[int], ratios: list[float]) -> list[int]:
    """Return the cuts for which the largest ratio of a part's cost to its share is as small as possible.

    By dynamic programming: with shares of several sizes, taking all that fits is not always the best beginning.
    """
    sums = [0, *itertools.accumulate(costs)]
    count, num_parts = len(costs), len(ratios)
    best: list[tuple[float, list[int]]] = [(0.0, [0]), *[(float("inf"), [])] * count]  # of the layers before `end`
    for done, ratio in enumerate(ratios, start=1):
        ends = range(done, count - (num_parts - done) + 1)
        found = {
            end: min((max(best[begin][0], (sums[end] - sums[begin]) / ratio), begin) for begin in range(done - 1, end))
            for end in ends
        }
        best = [
            (found[end][0], [*best[found[end][1]][1], end]) if end in found else (float("inf"), [])
            for end in range(count + 1)
        ]
    return best[count][1]
