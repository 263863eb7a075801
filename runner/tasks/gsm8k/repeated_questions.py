"""Implements task.check_invariance=auto: asks a few questions a second time while the job runs.

In bfloat16 a greedy answer can change with the other sequences of the batch. The repeated
sequence of a question enters after its first answer, next to other questions, so it takes as
long as any question. Alone, or in a batch of their own, a few sequences would take longer than
their share, because a step with few sequences takes nearly as long as one with many. So a
question is repeated only while others are queued. Nothing is repeated if all sequences decode
at the same time, if only one does, or by a server, which forms its own batches and may cost
money.

The job's own answers are the same as without the check. This requires an engine that computes
each sequence independently: elsewhere, as with the outliers of int8, the repeated sequences
would change the other answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runner.tasks import NoJudge, Policy, Recorder, StoredAnswers, TaskContext, build_sample_from_completions
from runner.tasks.gsm8k.judging import Judge
from runner_base import Sample
from runner_base.notes import Note, note
from runner_engine import Completion, Engine, EngineReport, Request

AGAIN = "again.jsonl"
PREFIX = "again "


class RepeatedQuestions(Policy):
    """Policy that asks some questions twice, and stores the second answers in a separate file."""

    def __init__(self, requests: list[Request], context: TaskContext, judge: Judge) -> None:
        self.requests, self.first = requests, context.recorder
        self.judge = SecondAnswerJudge(judge, self.first.done)
        self.recorder = Recorder(context.recorder.job, AGAIN)
        self.kept = StoredAnswers(requests, self.recorder, self.judge, context.config.rerun)
        is_alone = context.config.generation.batch_size == 1
        self.waiting = [] if is_alone else self.kept.todo
        self.context = context
        self.depends_on_others = False  # a row of this engine: so nothing was asked again

    def on_engine_loaded(self, engine: Engine, report: EngineReport) -> None:
        """Reject stored second answers whose prompt has changed since."""
        self.kept.reject_answers_to_changed_prompts(engine)

    def next_extra_requests(self) -> list[Request]:
        ready = [request for request in self.waiting if request.id in self.first.done]
        if ready and not self.context.engine.stats.rows_are_independent:
            self.waiting, self.depends_on_others = [], True
            return []
        self.waiting = [request for request in self.waiting if request.id not in self.first.done]
        return [
            replace(request, id=f"{PREFIX}{request.id}", random_id=request.effective_random_id)
            for request in ready
        ]

    def on_extra_answer(self, *completions: Completion) -> None:
        number = int(str(completions[0].id).removeprefix(PREFIX))
        answers = [replace(completion, id=number) for completion in completions]
        self.recorder.append_sample(self.judge(build_sample_from_completions(*answers)))

    def recorded_answers(self) -> list[Sample]:
        return [
            self.recorder.done[number]
            for request in self.requests
            if (number := int(request.id)) in self.recorder.done
        ]

    def close(self) -> None:
        self.recorder.close()


class SecondAnswerJudge(NoJudge):
    """Judge that accepts a second answer only if its question and prompt equal those of the first answer."""

    def __init__(self, judge: Judge, first_samples: Mapping[int, Sample]) -> None:
        self.judge, self.first = judge, first_samples

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        return self.judge(sample)

    def rejection_reason(self, sample: Sample) -> Note | None:
        first = self.first.get(sample.index)
        if first is None:
            return None
        asked = sample.question, sample.gold, sample.prompt_sha256
        is_same = asked == (first.question, first.gold, first.prompt_sha256)
        return None if is_same else note("not_this_question", index=sample.index)
