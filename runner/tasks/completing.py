"""The answers to a job's questions: those that there are, and new ones; each is on disk as soon as it is there.

The same command resumes a job wherever it was ended, with what is on disk. What a job does beside asking each question
once is a policy (collecting/policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.render.starts import resuming
from runner.tasks.base import Context
from runner.tasks.collecting import (
    UNJUDGED,
    Collected,
    Judge,
    Kept,
    Measured,
    PartialFile,
    Policies,
    Policy,
    ReuseOfAnswers,
    ReuseOfThoughts,
    ask,
    collected,
)
from runner_base import tell
from runner_engine import Request


def collect(
    requests: list[Request],
    context: Context,
    judge: Judge = UNJUDGED,
    policies: Sequence[Policy] = (),
    questions: int | None = None,
) -> Collected:
    """Return the answers to all requests, in their order, or to the first ones if a policy takes
    these as enough.

    What has no answer is asked, and recorded as the judge judges it. A job without any answer has
    failed. `questions`: how many the job has, where a question is several requests; progress is
    shown in questions.
    """
    recorder = context.recorder
    recorded = sum(int(request.id) in recorder.done for request in requests)
    kept = Kept(requests, recorder, judge, context.config.rerun)
    policy = Policies([ReuseOfAnswers(context, judge), ReuseOfThoughts(context), *policies])
    kept.reuse(policy.known(kept.missing))
    enough = policy.begin(kept.samples)
    if enough is not None:
        kept.leave_out_after(enough)
    asked_again = kept.asked_again
    partial = PartialFile(recorder.folder)
    measured = Measured.read(recorder.folder) if kept.settled else None
    if kept.todo:
        of_questions = (questions or len(requests)) / len(requests)
        if text := resuming(of_questions * recorded, questions or len(requests), len(partial)):
            tell(text)
        enough, measured = ask(kept, context, judge, policy, partial, measured, questions)
    else:
        kept.take_reused()
    policy.end(recorder.done.values())
    partial.delete()  # also one that a kill after the last sample has left
    done = collected(kept, enough, measured, policy.notes(), asked_again, context.config.task.name)
    if measured is not None:
        done.metrics |= measured.cost_metrics(done.samples, context.config.price_kwh)
        done.note_values += measured.energy_notes(context.config.price_kwh)
    return done
