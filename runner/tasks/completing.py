"""Shared by the tasks that send many requests: resume from the samples on disk, generate, measure.

Not a task: a helper of `gsm8k`, `generate` and `likelihood`. A sample that ended in an error has no answer. It stays on
disk as evidence, the job has FAILED, and the next start sends the request again. If the error is permanent, such as a
prompt that is longer than the model reads, the next start reports it and loads nothing; rerun=failed sends it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any, Protocol

from runner.core.sides import answered_by
from runner.scorers import cost_and_sides
from runner.store import sibling_jobs
from runner.store.jobs import Recorder
from runner.store.measured import Measured, Measuring
from runner.store.partial import PartialFile
from runner.store.thoughts import Thoughts
from runner.store.thoughts import mark as mark_thoughts
from runner.tasks.asking import each_request, kept_words
from runner.tasks.base import Context, RequestsBeside
from runner.tasks.collecting.samples import Judge, sample_of
from runner_base import JobFailed, Sample, counted
from runner_engine import Completion, Engine, EngineReport, Request, request_sha256, require

NOT_AGAIN = "The same command would get the same error and does not ask again; rerun=failed does"


@dataclass
class Completed:
    """All samples of a job in the order of its questions, and what they cost."""

    samples: list[Sample]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # the questions without an answer: any makes the job FAILED
    measured: Measured | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)  # facts about an engine that only other jobs have opened

    @property
    def facts(self) -> dict[str, str]:
        """Facts about the engine."""
        return self.measured.facts if self.measured else self.known

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """What each part of the model took, if it has several."""
        return self.measured.tables if self.measured else {}


class StopRule(Protocol):
    """Looks at samples in the order of the questions, whichever came first, and decides when they are enough."""

    def begin(self, settled: Mapping[int, Sample]) -> int | None:
        """Begin with the samples that exist; return how many questions are enough, None to continue."""

    def hear(self, sample: Sample) -> int | None:
        """Take one more sample; return how many questions are enough, None to continue."""

    def ahead(self, ended: int) -> int:
        """Return how many questions may be under way when this many have ended."""


def complete_missing(
    what: str,
    requests: list[Request],
    context: Context,
    judge: Judge,
    news: Callable[[Sample], dict[str, str]] = lambda _: {},
    look: Callable[[Engine, EngineReport], None] = lambda *_: None,
    watch: StopRule | None = None,
    order: Callable[[list[Request]], list[Request]] = lambda it: it,
    beside: RequestsBeside | None = None,
) -> Completed:
    """Complete the requests that have no answer on disk yet, record each at once, and return all of them in order.

    `news` returns what the progress bar shows for a new sample besides the speed. `look` may add to the engine's report
    once it is loaded. `order` returns the requests in the order in which they are asked. `beside` asks further ones
    among them. When `watch` has enough, requests under way are dropped, and only the samples up to there are returned.
    A job without any answer has failed.
    """
    recorder = context.recorder
    sibling_jobs.mark(recorder.job)
    refuse_foreign(recorder, requests, judge)
    todo = to_ask(requests, context)
    asked = {int(request.id) for request in todo}
    settled = {index: sample for index, sample in recorder.samples.items() if index not in asked}
    done = Completed([])
    done.measured = earlier = Measured.read(recorder.folder) if settled else None
    reused: dict[int, Sample] = {}
    if todo and context.config.rerun not in (True, "all"):
        reused, done.notes = sibling_jobs.reusable(recorder.job, asked, judge.adopted)
        todo = [request for request in todo if request.id not in reused]
    enough = watch.begin(settled | reused) if watch is not None else None
    if enough is not None:
        first = {int(request.id) for request in requests[:enough]}
        todo, reused = [], {index: sample for index, sample in reused.items() if index in first}
    again = sum(request.id in recorder.failed for request in todo)
    partial, budget = PartialFile(recorder.folder), context.config.generation.thinking_tokens
    if todo:
        engine = context.engine
        require(engine, f"task={what}", frozenset().union(*(request.needs for request in todo)))
        with recorder.progress(len(requests), "loading") as bar:
            measuring = Measuring(engine, recorder.folder, earlier)
            look(engine, measuring.report)
            refuse_other_prompts(recorder, requests, engine)
            reusable = [request for request in requests if request.id in reused]
            others = [request for request in reusable if not answers(reused[int(request.id)], request, engine)]
            todo += others
            reused = {index: reused[index] for index in reused.keys() - {request.id for request in others}}
            take(recorder, reused)
            if watch is not None:
                watch.begin(settled | reused)  # again: some reusable samples had answered another prompt
            bar.describe(what)
            ended = len(requests) - len(todo)
            last_news: dict[str, str] = {}

            def show() -> None:
                bar.show_begun(ended, engine.stats.under_way, **last_news, **measuring.live())

            show()

            def record(*choices: Completion) -> bool:
                nonlocal ended, enough, last_news
                sample = judge(sample_of(*choices), *choices)
                recorder.sample(sample)
                measuring.keep_now_and_then()
                ended += 1
                enough = watch.hear(sample) if watch is not None else None
                last_news = news(sample)
                show()
                return enough is None

            def keep(unfinished: list[Completion]) -> str:
                measuring.keep()
                return partial.keep(unfinished, engine, lambda name: name in recorder.done)

            ahead = watch.ahead if watch is not None else None
            thoughts = Thoughts(recorder.job, budget, todo)
            with kept_words(recorder.done):
                for some in thoughts.rounds(todo):
                    some = [replace(it, begun=partial.begun(it.id, engine) or thoughts.begun(it.id)) for it in some]
                    to_come = {request.id for request in some}
                    answered = [request for request in requests if request.id not in to_come]
                    each_request(
                        engine, order(some), record, on_step=show, ahead=ahead, beside=beside, on_stop=keep,
                        answered=answered,
                    )  # fmt: skip
                    if enough is not None:
                        break
                    thoughts.check(recorder.done, engine)
            done.notes += filter(None, [thoughts.note])
        done.measured = measuring.keep()
    else:
        take(recorder, reused)
    mark_thoughts(recorder.job, budget, recorder.done.values())
    partial.delete()  # also one that a kill after the last sample has left
    done.samples = [recorder.samples[int(request.id)] for request in requests[:enough]]
    own = [settled[sample.index] for sample in done.samples if sample.index in settled]
    done.notes += where_from(done.samples, own, again)
    if done.measured is not None:
        done.notes += done.measured.report.notes + done.measured.stats.notes
        done.metrics = dict(done.measured.metrics)
    elif report := engine_of_reused(recorder, done.samples):
        done.known = report.facts
        done.notes += report.notes
    done.metrics |= cost_and_sides(done.samples)
    if done.measured is not None and (models := answered_by(done.samples)):
        done.measured.report.facts["answered_by"] = models
        if "," in models and not any(sample.calls for sample in done.samples):
            done.notes.append(f"the server changed to another model during the job: {models}")
    done.problems = problems(what, done.samples)
    return done


def complete_beside(
    what: str,
    requests: list[Request],
    context: Context,
    file: str,
    judge: Judge,
    batch_size: int | None = None,
) -> tuple[list[Sample], list[str]]:
    """Complete requests besides the job's questions, into a file of their own; return all samples and their problems.

    They are recorded and resumed as the questions are, and do not count in the speed that the job reports.
    """
    recorder = Recorder(context.recorder.job, file)
    try:
        refuse_foreign(recorder, requests, judge)
        todo = to_ask(requests, context, recorder)
        if todo:
            engine = context.engine
            require(engine, what, frozenset().union(*(request.needs for request in todo)))
            with recorder.progress(len(requests), what) as bar:
                engine.load()
                refuse_other_prompts(recorder, requests, engine)
                ended = count(len(requests) - len(todo) + 1)

                def record(*choices: Completion) -> None:
                    recorder.sample(judge(sample_of(*choices), *choices))
                    bar.show(next(ended))

                each_request(engine, todo, record, batch_size)
        answered = [recorder.samples[int(request.id)] for request in requests]
        return answered, [f"{what}: {problem}" for problem in unanswered(answered)]
    finally:
        recorder.close()


def order_of_repeat(repeat: int, requests: list[Request]) -> list[Request]:
    """Return the requests in the order of a repeat: any but the first run asks in an order of its own."""
    return Random(repeat).sample(requests, len(requests)) if repeat else requests


def take(recorder: Recorder, samples: dict[int, Sample]) -> None:
    """Record the samples of other jobs, in the order of the questions."""
    for index in sorted(samples):
        recorder.sample(samples[index])


def where_from(samples: list[Sample], own: list[Sample], again: int) -> list[str]:
    """Say where the samples come from, unless they were all generated just now."""
    generated = sum(sample.reused_from is None for sample in own)
    givers = Counter(sample.reused_from for sample in samples if sample.reused_from is not None)
    notes = [f"{generated} of {len(samples)} samples were on disk from an earlier, interrupted run"] * bool(generated)
    once = counted(again, "sample that had ended in an error was", "samples that had ended in an error were")
    notes += [f"{once} asked again"] * bool(again)
    return notes + [
        f"{count} of {len(samples)} samples were taken from job {giver}, which had put the same questions: their time, "
        "speed and cost are not counted here"
        for giver, count in givers.most_common()
    ]


def engine_of_reused(recorder: Recorder, samples: list[Sample]) -> EngineReport | None:
    """Return the engine report of the job that most samples were reused from; without measurements."""
    givers = Counter(sample.reused_from for sample in samples if sample.reused_from is not None)
    for giver, _ in givers.most_common():
        if measured := Measured.read(sibling_jobs.folder_of(recorder.job, str(giver))):
            return measured.report
    return None


def to_ask(requests: list[Request], context: Context, recorder: Recorder | None = None) -> list[Request]:
    """Return the requests without an answer; those with a permanent error only with rerun=failed."""
    recorder, asks_again = recorder or context.recorder, context.config.rerun == "failed"
    permanent = {index for index, sample in recorder.failed.items() if sample.permanent and not asks_again}
    return [request for request in requests if request.id not in recorder.done and request.id not in permanent]


def problems(what: str, samples: list[Sample]) -> list[str]:
    """Say which questions have no answer, why, and what to do; raise JobFailed if none has one."""
    failed = [sample for sample in samples if sample.failed]
    permanent = [sample for sample in failed if sample.permanent]
    if failed and len(failed) == len(samples):
        hint = f". {NOT_AGAIN}" if len(permanent) == len(failed) else ""
        raise JobFailed(f"{what}: nothing could be completed; the first reason: {failed[0].error}{hint}")
    return unanswered(samples)


def unanswered(samples: list[Sample]) -> list[str]:
    """Say which questions have no answer, why, and what to do."""
    failed = [sample for sample in samples if sample.failed]
    permanent = [sample for sample in failed if sample.permanent]
    temporary = [sample for sample in failed if not sample.permanent]
    kinds = (
        (temporary, "ended in an error", "The others are kept; the same command asks these again"),
        (permanent, "cannot be answered", f"The others are kept. {NOT_AGAIN}"),
    )
    return [
        f"{len(some)} of {len(samples)} prompts {how}, number {some[0].index} first: {some[0].error}. {then}"
        for some, how, then in kinds
        if some
    ]


def refuse_foreign(recorder: Recorder, requests: list[Request], judge: Judge) -> None:
    """Reject samples on disk that do not belong to this job, or that it would judge differently."""
    asked = {request.id for request in requests}
    for index, sample in recorder.samples.items():
        foreign = f"is sample {index}, and this job has {len(requests)} prompts" if index not in asked else None
        recorder.verify(index, foreign or judge.rejection_reason(sample))


def refuse_other_prompts(recorder: Recorder, requests: list[Request], engine: Engine) -> None:
    """Reject samples on disk that answer another prompt than the model would see now."""
    for request in requests:
        sample = recorder.done.get(int(request.id))
        if sample is not None and not answers(sample, request, engine):
            recorder.verify(sample.index, f"answers another prompt than sample {sample.index} of this job")


def answers(sample: Sample, request: Request, engine: Engine) -> bool:
    """Whether a sample answers the prompt that the model would see now."""
    return sample.prompt_sha256 == request_sha256(engine.encode(request)[0], request)
