"""Collects the answers to extra requests, such as questions that a job asks a second time."""

from __future__ import annotations

from itertools import count

from runner.records.jobs import Recorder
from runner.tasks.base import TaskContext
from runner.tasks.collecting.collected_answers import describe_unanswered_questions
from runner.tasks.collecting.samples import Judge, build_sample_from_completions
from runner.tasks.collecting.sending import send_requests
from runner.tasks.collecting.stored_answers import StoredAnswers
from runner_base import Sample
from runner_engine import Completion, Request, require_capabilities


def collect_extra_answers(
    progress_label: str,
    requests: list[Request],
    context: TaskContext,
    samples_file: str,
    judge: Judge,
    batch_size: int | None = None,
) -> tuple[list[Sample], list[str]]:
    """Collect answers to extra requests in a separate samples file. Returns the samples, and the errors
    of failed requests.

    The samples are recorded and resumed like the questions. They do not count in the job's reported
    speed.
    """
    recorder = Recorder(context.recorder.job, samples_file)
    try:
        kept = StoredAnswers(requests, recorder, judge, context.config.rerun)
        if kept.todo:
            engine = context.engine
            require_capabilities(
                engine.capabilities,
                progress_label,
                frozenset().union(*(request.required_capabilities for request in kept.todo)),
            )
            with recorder.create_progress_bar(len(requests), progress_label, "questions") as bar:
                engine.load()
                kept.reject_answers_to_changed_prompts(engine)
                ended = count(len(requests) - len(kept.todo) + 1)

                def record_answer(*completions: Completion) -> None:
                    recorder.append_sample(judge(build_sample_from_completions(*completions), *completions))
                    bar.set_position(next(ended))

                send_requests(engine, kept.todo, record_answer, batch_size)
        answered = [recorder.samples[int(request.id)] for request in requests]
        return answered, [
            f"{progress_label}: {problem}" for problem in describe_unanswered_questions(answered)
        ]
    finally:
        recorder.close()
