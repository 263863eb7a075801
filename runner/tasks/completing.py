"""What tasks that ask one question after another share: go on from the samples on disk, generate, measure.

No task itself: a helper of `gsm8k`, `generate` and `pipeline`. An answer that ended in an error is none: it stays among
the samples as evidence, the job has FAILED, and the next start asks again. Where the error is permanent, such as a
prompt that is longer than the model reads, the next start says what stands and loads nothing; rerun=failed asks again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.core import machine
from runner.core.errors import JobFailed
from runner.core.result import FinishReason, Sample
from runner.engines.base import (
    Completion,
    Engine,
    EngineReport,
    EngineStats,
    Request,
    complete,
    request_sha256,
    require,
)
from runner.store.jobs import Recorder, write_atomically
from runner.tasks.base import Context

MEASURED = "measured.json"
WRITE_EVERY_S = 1.0
NOT_AGAIN = "The same command would get the same error and does not ask again; rerun=failed does"


@dataclass
class Measured:
    """What the engine has said and what was measured of it, kept beside the samples while they come.

    A job whose result.json is lost, or that goes on after a kill, has it from there.
    """

    report: EngineReport
    stats: EngineStats
    peak_rss_mib: float
    machine: str
    company: str  # what else had the process and the machine meanwhile

    @property
    def metrics(self) -> dict[str, float]:
        """What the job reports of it."""
        return self.report.metrics | self.stats.speed | {"peak_rss_mib": self.peak_rss_mib}

    @property
    def facts(self) -> dict[str, str]:
        """What the job says of it in words."""
        return self.report.facts | {"measured": self.company, "machine": self.machine}

    def after(self, earlier: Measured | None) -> Measured:
        """Add it to what earlier starts have measured, where that was on a machine like this one."""
        if earlier is None or earlier.machine != self.machine or self.report.parts:
            return self
        company = next((one for one in (earlier.company, self.company) if one != machine.ALONE), machine.ALONE)
        peak_mib = max(earlier.peak_rss_mib, self.peak_rss_mib)
        return Measured(self.report, earlier.stats + self.stats, peak_mib, self.machine, company)

    def write(self, folder: Path) -> None:
        """Keep it in a job's folder."""
        write_atomically(folder / MEASURED, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Measured | None:
        """Return what earlier starts have measured; None where there is nothing readable, which costs no answer."""
        try:
            values = json.loads((folder / MEASURED).read_text(encoding="utf-8"))
            report, stats = EngineReport(**values.pop("report")), EngineStats(**values.pop("stats"))
            return cls(report, stats, **values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


@dataclass
class Completed:
    """All samples of a job in the order of its questions, and what making them has cost."""

    samples: list[Sample]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # the questions without an answer: the job has FAILED
    measured: Measured | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, str]:
        """What is known of the engine, in words."""
        return self.measured.facts if self.measured else {}

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Of the model, one line per part, where it has several."""
        return self.measured.report.parts if self.measured else []


def complete_missing(
    what: str,
    requests: list[Request],
    context: Context,
    to_sample: Callable[[Completion], Sample],
    news: Callable[[Sample], dict[str, str]] = lambda _: {},
    why_not: Callable[[Sample], str | None] = lambda _: None,
) -> Completed:
    """Complete the requests that have no answer on disk yet, record each at once, and return all of them in order.

    `news` is asked about each new sample for what the progress bar shows besides the speed, `why_not` about each that
    an earlier start has left: the reason why it is none of this job's. A job without any answer has failed.
    """
    recorder = context.recorder
    refuse_foreign(recorder, requests, why_not)
    todo = to_ask(requests, context)
    reused, again = len(requests) - len(todo), sum(request.id in recorder.failed for request in todo)
    done = Completed([])
    if reused:
        done.notes.append(f"{reused} of {len(requests)} samples were on disk from an earlier, interrupted run")
    if again:
        done.notes.append(f"{again} samples that had ended in an error were asked again")
    done.measured = earlier = Measured.read(recorder.folder) if reused else None
    if todo:
        company = machine.Company()
        machine.reset_peak()
        engine = context.engine()
        require(engine, f"task={what}", frozenset().union(*(request.needs for request in todo)))
        with recorder.progress(len(requests), "loading") as bar:
            report = engine.load()
            refuse_other_prompts(recorder, requests, engine)
            bar.describe(what)
            ended = reused
            last_news: dict[str, str] = {}

            def show() -> None:
                stats = engine.stats
                rows = f"{stats.rows_alive} at once" if stats.rows_alive else ""
                speed = f"{stats.decode_tok_per_s:,.0f} tok/s" if stats.decode_s else ""
                live = {key: value for key, value in (("decode", speed), ("rows", rows)) if value}
                bar.show(ended + stats.under_way, **last_news, **live)

            def keep() -> Measured:
                peak_mib, words = machine.peak_rss_mib(), company.describe()
                found = Measured(report, engine.stats, peak_mib, machine.name(), words).after(earlier)
                found.write(recorder.folder)
                return found

            show()
            kept_at = 0.0
            for completion in complete(engine, todo, on_step=show):
                sample = to_sample(completion)
                recorder.sample(sample)
                if time.monotonic() - kept_at > WRITE_EVERY_S:
                    keep()
                    kept_at = time.monotonic()
                ended += 1
                last_news = news(sample)
                show()
        done.measured = keep()
    if done.measured is not None:
        done.notes += done.measured.report.notes + done.measured.stats.notes
        done.metrics = dict(done.measured.metrics)
    done.samples = [recorder.samples[int(request.id)] for request in requests]
    done.metrics |= who_did_what(done.samples)
    if done.measured is not None and (said_by := answered_by(done.samples)):
        done.measured.report.facts["answered_by"] = said_by
        if "," in said_by and not any(sample.calls for sample in done.samples):
            done.notes.append(f"the server came to answer with another model: {said_by}")
    done.problems = problems(what, done.samples)
    return done


def to_ask(requests: list[Request], context: Context) -> list[Request]:
    """Return the requests without an answer; those that can have none are asked again with rerun=failed only."""
    recorder, insists = context.recorder, context.config.rerun == "failed"
    hopeless = {index for index, sample in recorder.failed.items() if sample.permanent and not insists}
    return [request for request in requests if request.id not in recorder.done and request.id not in hopeless]


def problems(what: str, samples: list[Sample]) -> list[str]:
    """Say which questions have no answer, why, and what to do; raise JobFailed where none has one."""
    failed = [sample for sample in samples if sample.failed]
    hopeless = [sample for sample in failed if sample.permanent]
    if failed and len(failed) == len(samples):
        hint = f". {NOT_AGAIN}" if len(hopeless) == len(failed) else ""
        raise JobFailed(f"{what}: nothing could be completed; the first reason: {failed[0].error}{hint}")
    passing = [sample for sample in failed if not sample.permanent]
    kinds = (
        (passing, "ended in an error", "The others are kept; the same command asks these again"),
        (hopeless, "cannot be answered", f"The others are kept. {NOT_AGAIN}"),
    )
    return [
        f"{len(some)} of {len(samples)} prompts {how}, number {some[0].index} first: {some[0].error}. {then}"
        for some, how, then in kinds
        if some
    ]


def refuse_foreign(recorder: Recorder, requests: list[Request], why_not: Callable[[Sample], str | None]) -> None:
    """Refuse samples on disk that are none of this job's, or that it would judge in another way."""
    asked = {request.id for request in requests}
    for index, sample in recorder.samples.items():
        foreign = f"is sample {index}, and this job has {len(requests)} prompts" if index not in asked else None
        recorder.verify(index, foreign or why_not(sample))


def refuse_other_prompts(recorder: Recorder, requests: list[Request], engine: Engine) -> None:
    """Refuse samples on disk that answer another prompt than the model would see now."""
    for request in requests:
        sample = recorder.done.get(int(request.id))
        if sample is not None and sample.prompt_sha256 != request_sha256(engine.encode(request)[0], request):
            recorder.verify(sample.index, f"answers another prompt than sample {sample.index} of this job")


def token_counts(samples: list[Sample]) -> dict[str, float]:
    """Add up the tokens."""
    return {
        "prompt_tokens": sum(sample.prompt_tokens for sample in samples),
        "new_tokens": sum(said.tokens for sample in samples for said in sample.said),
    }


def who_did_what(samples: list[Sample]) -> dict[str, float]:
    """Add up cost, and answers, calls and tokens by who gave them, where there is anything of the kind to tell."""
    costs = [sample.cost_usd for sample in samples if sample.cost_usd is not None]
    counts: Counter[str] = Counter()
    for sample in samples:
        for call in sample.calls or []:
            counts.setdefault(f"{call.who}_answers", 0)
            counts[f"{call.who}_calls"] += 1
            counts[f"{call.who}_prompt_tokens"] += call.prompt_tokens
            counts[f"{call.who}_new_tokens"] += call.tokens
        if sample.calls and not sample.failed:
            counts[f"{sample.by}_answers"] += 1
    return ({"cost_usd": sum(costs)} if costs else {}) | counts


def answered_by(samples: list[Sample]) -> str:
    """Say who gave how many of the answers; empty where it can be one only."""
    given = Counter(sample.by for sample in samples if sample.by is not None and not sample.failed)
    return ", ".join(f"{who} {number}" for who, number in given.most_common())


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
        permanent=completion.permanent,
        branches=completion.branches,
        calls=completion.calls,
        new_tokens=completion.new_tokens,
        by=completion.by,
        cost_usd=completion.cost_usd,
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
