"""Collects the answers to a job's questions, stored or newly generated. Each new answer is written
to disk at once.

The same command resumes an interrupted job from its answers on disk. Deviations from answering
each question once are policies (collecting/policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.render.progress_messages import format_resuming_message
from runner.tasks.base import TaskContext
from runner.tasks.collecting import (
    UNJUDGED,
    AnswerReuse,
    CollectedAnswers,
    CombinedPolicy,
    EngineMeasurements,
    Judge,
    PartialAnswersFile,
    Policy,
    StoredAnswers,
    ThinkingReuse,
    build_collected_answers,
    send_unanswered_requests,
)
from runner_base import announce
from runner_engine import Request


def collect_answers(
    requests: list[Request],
    context: TaskContext,
    judge: Judge = UNJUDGED,
    policies: Sequence[Policy] = (),
    num_questions: int | None = None,
    unit: str = "questions",
) -> CollectedAnswers:
    """Send all requests and return the answers in order. A policy may end the job early.

    Unanswered requests are sent, judged and recorded. A job without any answer has failed.
    `num_questions` is the number of questions, where a question is several requests. The progress
    bar counts questions, and names them by `unit`.
    """
    recorder = context.recorder
    recorded = sum(int(request.id) in recorder.done for request in requests)
    kept = StoredAnswers(requests, recorder, judge, context.config.rerun)
    policy = CombinedPolicy([AnswerReuse(context, judge), ThinkingReuse(context), *policies])
    kept.add_reused_samples(policy.find_known_answers(kept.unanswered_ids))
    enough = policy.start(kept.answered_samples)
    if enough is not None:
        kept.limit_to_first_questions(enough)
    asked_again = kept.num_retried
    partial = PartialAnswersFile(recorder.folder)
    measured = EngineMeasurements.read_from_folder(recorder.folder) if kept.settled else None
    if kept.todo:
        of_questions = (num_questions or len(requests)) / len(requests)
        if text := format_resuming_message(
            of_questions * recorded, num_questions or len(requests), len(partial)
        ):
            announce(text)
        enough, measured = send_unanswered_requests(
            kept, context, judge, policy, partial, measured, num_questions, unit
        )
    else:
        kept.record_reused()
    policy.finish(recorder.done.values())
    partial.delete()  # also one that a kill after the last sample has left
    done = build_collected_answers(
        kept, enough, measured, policy.notes(), asked_again, context.config.task.name
    )
    if measured is not None:
        done.metrics |= measured.compute_cost_metrics(done.samples, context.config.price_kwh)
        done.note_values += measured.energy_notes(context.config.price_kwh)
    return done
