"""Collects answers besides those to a job's questions, such as second answers to some of them."""

from __future__ import annotations

from itertools import count

from runner.records.jobs import Recorder
from runner.tasks.base import Context
from runner.tasks.collecting.kept import Kept
from runner.tasks.collecting.outcome import unanswered
from runner.tasks.collecting.samples import Judge, sample_of
from runner.tasks.collecting.sending import each_request
from runner_base import Sample
from runner_engine import Completion, Request, require


def collect_beside(
    what: str,
    requests: list[Request],
    context: Context,
    file: str,
    judge: Judge,
    batch_size: int | None = None,
) -> tuple[list[Sample], list[str]]:
    """Complete requests besides the job's questions, into a file of their own; return all samples
    and their problems.

    They are recorded and resumed as the questions are, and do not count in the speed that the job
    reports.
    """
    recorder = Recorder(context.recorder.job, file)
    try:
        kept = Kept(requests, recorder, judge, context.config.rerun)
        if kept.todo:
            engine = context.engine
            require(engine.capabilities, what, frozenset().union(*(request.needs for request in kept.todo)))
            with recorder.progress(len(requests), what) as bar:
                engine.load()
                kept.refuse_other_prompts(engine)
                ended = count(len(requests) - len(kept.todo) + 1)

                def record(*completions: Completion) -> None:
                    recorder.sample(judge(sample_of(*completions), *completions))
                    bar.show(next(ended))

                each_request(engine, kept.todo, record, batch_size)
        answered = [recorder.samples[int(request.id)] for request in requests]
        return answered, [f"{what}: {problem}" for problem in unanswered(answered)]
    finally:
        recorder.close()
