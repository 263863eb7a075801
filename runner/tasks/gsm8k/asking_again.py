"""task.check_invariance=auto: a few questions are asked a second time, in the same session as the
others.

In bfloat16 a greedy answer can change with the rows that are decoded along. A question's second row
enters after its first answer is there, beside the questions that are then decoded, so that it takes
as long as any other question. By itself, or in a batch of their own, a few rows take much longer
than their share: a step of few rows hardly takes less time than one of many. So a question is asked
again only while others wait for a place. Nothing is asked again if all rows decode at the same
time, if only one does, or by a server, which batches rows as it likes and may cost money.

The job's own answers are the same as without the check. So it needs an engine that is known to
compute each row by itself: elsewhere, as with the outliers of int8, the second rows would change
the answers beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runner.tasks import Context, Kept, Policy, Recorder, Unjudged, sample_of
from runner.tasks.gsm8k.judging import Judge
from runner_base import Sample
from runner_base.notes import Note, note
from runner_engine import Completion, Engine, EngineReport, Request

AGAIN = "again.jsonl"
PREFIX = "again "


class AskingAgain(Policy):
    """The second rows of some questions, and the file that keeps their answers."""

    def __init__(self, requests: list[Request], context: Context, judge: Judge) -> None:
        self.requests, self.first = requests, context.recorder
        self.judge = SecondAnswers(judge, self.first.done)
        self.recorder = Recorder(context.recorder.job, AGAIN)
        self.kept = Kept(requests, self.recorder, self.judge, context.config.rerun)
        is_alone = context.config.generation.batch_size == 1
        self.waiting = [] if is_alone else self.kept.todo
        self.context = context
        self.depends_on_others = False  # a row of this engine: so nothing was asked again

    def loaded(self, engine: Engine, report: EngineReport) -> None:
        """Reject answers of an earlier start to other prompts, once the engine can encode them."""
        self.kept.refuse_other_prompts(engine)

    def due(self) -> list[Request]:
        """Return the second rows of the questions that have been answered meanwhile."""
        ready = [request for request in self.waiting if request.id in self.first.done]
        if ready and not self.context.engine.stats.rows_are_independent:
            self.waiting, self.depends_on_others = [], True
            return []
        self.waiting = [request for request in self.waiting if request.id not in self.first.done]
        return [
            replace(request, id=f"{PREFIX}{request.id}", random_id=request.effective_random_id)
            for request in ready
        ]

    def record(self, *completions: Completion) -> None:
        """Record the answers of a second row."""
        number = int(str(completions[0].id).removeprefix(PREFIX))
        answers = [replace(completion, id=number) for completion in completions]
        self.recorder.sample(self.judge(sample_of(*answers)))

    def answers(self) -> list[Sample]:
        """Return the answers that there are, those of earlier starts too."""
        return [
            self.recorder.done[number]
            for request in self.requests
            if (number := int(request.id)) in self.recorder.done
        ]

    def close(self) -> None:
        """Close the file."""
        self.recorder.close()


class SecondAnswers(Unjudged):
    """Answers to questions that were asked before: each must belong to its question's first one, if
    there is one."""

    def __init__(self, judge: Judge, first: Mapping[int, Sample]) -> None:
        self.judge, self.first = judge, first

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        """Return a new sample with its verdict."""
        return self.judge(sample)

    def rejection_reason(self, sample: Sample) -> Note | None:
        """Return why a second answer does not belong to its question's first one; None if it does."""
        first = self.first.get(sample.index)
        if first is None:
            return None
        asked = sample.question, sample.gold, sample.prompt_sha256
        is_same = asked == (first.question, first.gold, first.prompt_sha256)
        return None if is_same else note("not_this_question", index=sample.index)
