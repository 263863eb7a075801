"""Computes percentiles of the divergence per token, and stores the tokens with the largest divergence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runner.records.divergences import DIVERGENCES, WORST_TOKENS, TokenDivergences
from runner_base import Result, Sample, convert_write_error
from runner_base.notes import Note, note
from runner_compare.statistics import TextTokens, compute_divergence_metrics
from runner_engine import Request

WORST, BEFORE, AFTER = 50, 24, 8  # how many tokens, and how many of the text on both sides
QUESTION_END = 80  # characters of a prompt that stand before a text's first tokens


@dataclass(frozen=True)
class WorstToken:
    """A token with a large divergence, its position, and the text around it."""

    index: int  # of its sample
    position: int  # in its text
    category: str | None
    kl_nats: float
    kl_at_most_nats: float | None  # None: the divergence is exact
    before: str
    token: str
    after: str
    logprob: float
    reference_logprob: float | None
    first: str  # this model's first choice
    reference_first: str


def add_token_divergence_metrics(
    result: Result, samples: Sequence[Sample], divergences: Mapping[int, TokenDivergences]
) -> list[Note]:
    """Add percentiles of the divergence per token to `result`. Returns a note if divergences are
    missing.
    """
    texts = collect_token_divergences_by_document(
        [sample for sample in samples if not sample.failed], divergences
    )
    if texts is None:
        return [note("no_percentiles", "warning", file=DIVERGENCES)]
    if texts:
        result.metrics |= compute_divergence_metrics(texts)
    return []


def collect_token_divergences_by_document(
    samples: Sequence[Sample], divergences: Mapping[int, TokenDivergences]
) -> list[TextTokens] | None:
    """Return the divergences per token of each document. None if a divergence is not stored."""
    scored = [
        sample for sample in samples if sample.likelihood is not None and not sample.likelihood.is_other
    ]
    longest = max(
        (sample.likelihood.context or 0 for sample in scored if sample.likelihood is not None), default=0
    )
    counted = [
        scored_text
        for scored_text in scored
        if scored_text.likelihood is not None and (scored_text.likelihood.context or 0) == longest
    ]
    has_families = all(counted_text.cluster is not None for counted_text in counted)
    texts: dict[object, TextTokens] = {}
    for sample in counted:
        if (own := divergences.get(sample.index)) is None:
            return None
        assert sample.likelihood is not None
        text = texts.setdefault(
            sample.cluster if has_families else sample.likelihood.unit, TextTokens(sample.category)
        )
        text.least += own.least
        text.most += own.most
        text.logprobs += own.logprobs
        text.reference += own.reference
        text.agreed += sum(
            first == reference_first
            for first, reference_first in zip(own.first, own.reference_first, strict=True)
        )
    return [*texts.values()]


def write_most_divergent_tokens(
    folder: Path,
    samples: Sequence[Sample],
    divergences_by_sample: Mapping[int, TokenDivergences],
    requests: Mapping[int, Request],
    decode: Callable[[Sequence[int]], str],
) -> None:
    by_index = {sample.index: sample for sample in samples}
    places = (
        (nats, index, at)
        for index, divergences in divergences_by_sample.items()
        if index in by_index
        for at, nats in enumerate(divergences.least)
    )
    worst = sorted(places, key=lambda found_at: (-found_at[0], found_at[1:]))[:WORST]
    lines = [
        describe_divergent_token(by_index[index], divergences_by_sample[index], at, requests[index], decode)
        for nats, index, at in worst
        if nats > 0
    ]
    path = folder / WORST_TOKENS
    try:
        path.write_text(
            "".join(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
        )
    except OSError as error:
        raise convert_write_error(path, error) from error


def describe_divergent_token(
    sample: Sample,
    divergences: TokenDivergences,
    position: int,
    request: Request,
    decode: Callable[[Sequence[int]], str],
) -> WorstToken:
    ids = sample.answer.token_ids
    earlier, prompt = ids[max(0, position - BEFORE) : position], request.prompt
    if request.continuation is not None and not isinstance(request.continuation, str):  # a window of a text
        earlier = [
            *(token for token in prompt[-max(1, BEFORE - position) :] if isinstance(token, int)),
            *earlier,
        ][-BEFORE:]
    begin = (sample.question or "")[-QUESTION_END:] if position < BEFORE else ""
    return WorstToken(
        sample.index,
        position,
        sample.category,
        divergences.least[position],
        divergences.most[position] if divergences.most else None,
        begin + decode(earlier),
        decode(ids[position : position + 1]),
        decode(ids[position + 1 : position + 1 + AFTER]),
        divergences.logprobs[position],
        divergences.reference[position] if divergences.reference else None,
        decode([divergences.first[position]]),
        decode([divergences.reference_first[position]]),
    )
