"""What tasks that ask one question after another share: go on from the samples on disk, generate, measure.

No task itself: a helper of `gsm8k`, `generate` and `pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runner.core.errors import JobFailed
from runner.core.machine import peak_rss_mib, reset_peak
from runner.core.result import FinishReason, Sample
from runner.engines.base import Completion, Request, complete, require
from runner.tasks.base import Context


@dataclass
class Completed:
    """All samples of a job in the order of its questions, and what making the missing ones has cost."""

    samples: list[Sample]
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)  # of the model, one line per part, where it has several

    @property
    def failed(self) -> list[Sample]:
        """The samples that ended in an error."""
        return [sample for sample in self.samples if sample.finish_reason is FinishReason.error]


def complete_missing(
    what: str,
    requests: list[Request],
    context: Context,
    to_sample: Callable[[Completion], Sample],
    news: Callable[[Sample], dict[str, str]] = lambda _: {},
) -> Completed:
    """Complete the requests that are not on disk yet, record each at once, and return all of them in order.

    `news` is asked about each new sample for what the progress bar shows besides the speed. A job in which
    every sample ended in an error has failed.
    """
    recorder = context.recorder
    todo = [request for request in requests if request.id not in recorder.done]
    reused = len(requests) - len(todo)
    done = Completed([])
    if reused:
        done.notes.append(f"{reused} of {len(requests)} samples were on disk from an earlier, interrupted run")
    if todo:
        reset_peak()
        engine = context.engine()
        require(engine, f"task={what}", frozenset().union(*(request.needs for request in todo)))
        with recorder.progress(len(requests), "loading") as bar:
            report = engine.load()
            bar.describe(what)
            ended = reused
            last_news: dict[str, str] = {}

            def show() -> None:
                stats = engine.stats
                rows = f"{stats.rows_alive} at once" if stats.rows_alive else ""
                speed = f"{stats.decode_tok_per_s:,.0f} tok/s" if stats.decode_s else ""
                live = {key: value for key, value in (("decode", speed), ("rows", rows)) if value}
                bar.show(ended + stats.under_way, **last_news, **live)

            show()
            for completion in complete(engine, todo, on_step=show):
                sample = to_sample(completion)
                recorder.sample(sample)
                ended += 1
                last_news = news(sample)
                show()
        done.facts, done.parts = report.facts, report.parts
        done.notes += report.notes + engine.stats.notes
        done.metrics = report.metrics | {
            "prefill_tok_per_s": engine.stats.prefill_tok_per_s,
            "decode_tok_per_s": engine.stats.decode_tok_per_s,
            "shared_prompt_tokens": engine.stats.shared_tokens,
            "peak_rss_mib": peak_rss_mib(),
        }
    done.samples = [recorder.done[int(request.id)] for request in requests]
    if len(done.failed) == len(done.samples):
        raise JobFailed(f"{what}: nothing could be completed; the first reason: {done.failed[0].error}")
    return done


def token_counts(samples: list[Sample]) -> dict[str, float]:
    """Add up the tokens."""
    return {
        "prompt_tokens": sum(sample.prompt_tokens for sample in samples),
        "new_tokens": sum(len(said.token_ids) for sample in samples for said in sample.said),
    }


def sample_of(completion: Completion) -> Sample:
    """Return a completion as a sample that nobody has judged."""
    return Sample(
        index=int(completion.id),
        prompt_sha256=completion.prompt_sha256,
        prompt_tokens=completion.prompt_tokens,
        text=completion.text,
        token_ids=completion.token_ids,
        finish_reason=completion.finish_reason,
        seconds=round(completion.seconds, 6),
        error=completion.error,
        branches=completion.branches,
    )


def count_completions(samples: list[Sample]) -> dict[str, float]:
    """Count completions, tokens and how they ended; every branch is a completion."""
    said = [one for sample in samples for one in sample.said]
    ended = {reason: sum(one.finish_reason is reason for one in said) for reason in FinishReason}
    return {
        "n": len(said),
        **token_counts(samples),
        "stopped": ended[FinishReason.stop],
        "cut_off": ended[FinishReason.length],
        "errors": ended[FinishReason.error],
    }
