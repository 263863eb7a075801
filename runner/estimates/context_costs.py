"""Costs of context length: attention in a prompt, and the KV cache that each decode step reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from runner.config.resolved import ResolvedJob
from runner.config.task import RequestedCompletions, TaskConfig
from runner_base import MIB, ConfigError, Record
from runner_engine import Footprint

UNSURE = (
    1.5  # attention may be so many times quicker or slower than its operations say, beside the other products
)


@dataclass(frozen=True)
class LengthCosts:
    """Cost of attention to one earlier token, relative to the other costs of a token."""

    pair_share: float = 0.0  # in a prompt, as a share of the products of a token
    place_share: float = 0.0  # in a step of one row, as a share of the weights


NOTHING = LengthCosts()  # of a model whose shape is not known


def compute_context_length_costs(resolved: ResolvedJob, predicted_footprint: Footprint) -> LengthCosts:
    """Return the cost of one token of context: attention relative to matmuls, and KV cache relative to
    weights.
    """
    files = resolved.model.files
    shape, kinds = files.shape, files.text_settings.get("layer_types")
    # layers with a window look back no further than that, whatever stands before
    layers = sum(kind == "full_attention" for kind in kinds) if isinstance(kinds, list) else shape["layers"]
    parameters = sum(
        tensor.num_elements
        for tensor in files.tensors
        if tensor.num_elements != shape["vocab"] * shape["hidden"]
    )
    mixture = predicted_footprint.mixture
    active = parameters if mixture is None else parameters * mixture.active_parameters / mixture.parameters
    # as many products as numbers, for scores and for values
    pair = 2 * layers * shape["heads"] * shape["head_dim"]
    of_place = files.compute_kv_bytes_per_token(resolved.config.generation.kv_cache_config)
    return LengthCosts(pair / max(active, 1.0), of_place / max(predicted_footprint.weight_mib * MIB, 1.0))


def apply_recorded_sizes_to_task(task: TaskConfig, record: Record) -> TaskConfig | None:
    """Return the task config with the batch size and token counts of a recorded job, or None if the
    record lacks them.
    """
    known = {item.name for item in fields(task)}
    texts = {key: record.params.get(f"task.{key}") for key in task.sized_by if key in known}
    try:
        sizes: dict[str, Any] = {key: yaml.safe_load(text) for key, text in texts.items() if text is not None}
        return replace(task, **sizes)
    except (yaml.YAMLError, ConfigError, TypeError, ValueError):
        return None


def estimate_prefill_time_ratios(
    amounts: Sequence[RequestedCompletions],
    recorded_amounts: Sequence[RequestedCompletions],
    costs: LengthCosts,
) -> Iterator[float]:
    """Yield a lower and an upper bound of the ratio between the prefill times of a job and a recorded job."""
    for pair_share in (costs.pair_share / UNSURE, costs.pair_share * UNSURE):
        now, before = (
            sum(amount.computed_prompt_tokens + pair_share * amount.num_attention_pairs for amount in some)
            for some in (amounts, recorded_amounts)
        )
        yield now / before


def estimate_decode_step_time_ratio(
    completions: Sequence[RequestedCompletions],
    recorded_completions: Sequence[RequestedCompletions],
    batch_size: int,
    costs: LengthCosts,
) -> float:
    """Return the ratio between the times of a decode step in a job and in recorded jobs."""
    now, before = (
        1 + batch_size * _mean_context_tokens(some) * costs.place_share
        for some in (completions, recorded_completions)
    )
    return now / before


def _mean_context_tokens(amounts: Sequence[RequestedCompletions]) -> float:
    completions = sum(amount.completions for amount in amounts)
    return sum(amount.completions * amount.mean_context_tokens for amount in amounts) / completions
