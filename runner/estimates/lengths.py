"""What the tokens before a token cost: attention in a prompt, and keys and values that a step of
decoding reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from runner.config.resolved import ResolvedJob
from runner.config.task import Amount, TaskConfig
from runner_base import MIB, ConfigError, Record
from runner_engine import Footprint

UNSURE = (
    1.5  # attention may be so many times quicker or slower than its operations say, beside the other products
)


@dataclass(frozen=True)
class LengthCosts:
    """What one token before another one costs."""

    pair_share: float = 0.0  # in a prompt, as a share of the products of a token
    place_share: float = 0.0  # in a step of one row, as a share of the weights


NOTHING = LengthCosts()  # of a model whose shape is not known


def length_costs(resolved: ResolvedJob, predicted: Footprint) -> LengthCosts:
    """Return the costs for a model: the operations of attention, and the bytes of keys and
    values."""
    files = resolved.model.files
    shape, kinds = files.shape, files.text_settings.get("layer_types")
    # layers with a window look back no further than that, whatever stands before
    layers = sum(kind == "full_attention" for kind in kinds) if isinstance(kinds, list) else shape["layers"]
    parameters = sum(
        tensor.params for tensor in files.tensors if tensor.params != shape["vocab"] * shape["hidden"]
    )
    mixture = predicted.mixture
    active = parameters if mixture is None else parameters * mixture.active / mixture.parameters
    # as many products as numbers, for scores and for values
    pair = 2 * layers * shape["heads"] * shape["head_dim"]
    of_place = files.place_bytes(resolved.config.generation.stored_kv)
    return LengthCosts(pair / max(active, 1.0), of_place / max(predicted.weight_mib * MIB, 1.0))


def task_of_record(task: TaskConfig, record: Record) -> TaskConfig | None:
    """Return a task with the sizes that a record's task has; None if they cannot be read."""
    known = {item.name for item in fields(task)}
    texts = {key: record.params.get(f"task.{key}") for key in task.sized_by if key in known}
    try:
        sizes: dict[str, Any] = {key: yaml.safe_load(text) for key, text in texts.items() if text is not None}
        return replace(task, **sizes)
    except (yaml.YAMLError, ConfigError, TypeError, ValueError):
        return None


def prompt_shares(amounts: Sequence[Amount], then: Sequence[Amount], costs: LengthCosts) -> Iterator[float]:
    """Yield how many times as long as others prompts take to be read, at least and at most."""
    for pair_share in (costs.pair_share / UNSURE, costs.pair_share * UNSURE):
        now, before = (
            sum(amount.read_tokens + pair_share * amount.pairs for amount in some) for some in (amounts, then)
        )
        yield now / before


def step_share(amounts: Sequence[Amount], then: Sequence[Amount], rows: int, costs: LengthCosts) -> float:
    """Return how many times as long as others a step of so many rows takes, if each row reads keys
    of its own."""
    now, before = (1 + rows * _context(some) * costs.place_share for some in (amounts, then))
    return now / before


def _context(amounts: Sequence[Amount]) -> float:
    completions = sum(amount.completions for amount in amounts)
    return sum(amount.completions * amount.context_tokens for amount in amounts) / completions
