"""Asks a loaded engine the requests of a job that have no answer yet, and records each answer at once."""

from __future__ import annotations

from dataclasses import replace

from runner.records.measured import Measured, Measuring
from runner.records.partial import PartialFile
from runner.tasks.base import Context
from runner.tasks.collecting.kept import Kept
from runner.tasks.collecting.policy import Policy
from runner.tasks.collecting.samples import Judge, sample_of
from runner.tasks.collecting.sending import each_request, kept_words
from runner_base import Progress
from runner_engine import Completion, Request, require


def ask(
    kept: Kept,
    context: Context,
    judge: Judge,
    policy: Policy,
    partial: PartialFile,
    earlier: Measured | None,
    questions: int | None = None,
) -> tuple[int | None, Measured]:
    """Ask what has no answer; return how many questions were enough, None for all, and what was
    measured."""
    task, recorder, engine = context.config.task.name, context.recorder, context.engine
    require(engine.capabilities, f"task={task}", frozenset().union(*(request.needs for request in kept.todo)))
    with recorder.progress(questions or len(kept.requests), "loading") as bar:
        measuring = Measuring(engine, recorder.folder, earlier, context.config.model.is_on_server)
        policy.loaded(engine, measuring.report)
        kept.refuse_other_prompts(engine)
        kept.take_reused()
        policy.begin(kept.samples)
        bar.describe(task)
        asking = Asking(kept, context, judge, policy, partial, measuring, bar)
        asking.questions_per_request = (questions or len(kept.requests)) / len(kept.requests)
        asking.ask_all()
    return asking.enough, measuring.keep()


class Asking:
    """The questions under way: what came of them so far, and what the progress bar shows of it."""

    def __init__(
        self,
        kept: Kept,
        context: Context,
        judge: Judge,
        policy: Policy,
        partial: PartialFile,
        measuring: Measuring,
        bar: Progress,
    ) -> None:
        self.kept, self.recorder, self.engine = kept, context.recorder, context.engine
        self.judge, self.policy, self.partial = judge, policy, partial
        self.measuring, self.bar = measuring, bar
        self.enough: int | None = None
        self.questions_per_request = 1.0
        self._ended = len(kept.requests) - len(kept.todo)
        self._news: dict[str, str] = {}

    def ask_all(self) -> None:
        """Ask round by round, until all are answered or the first questions are enough."""
        self.show()
        with kept_words(self.recorder.done):
            for requests in self.policy.rounds(self.kept.todo):
                self._ask([self._with_beginning(request) for request in requests])
                if self.enough is not None:
                    break

    def _ask(self, requests: list[Request]) -> None:
        to_come = {request.id for request in requests}
        each_request(
            self.engine,
            requests,
            self.record,
            on_step=self.show,
            ahead=self.policy.ahead,
            beside=self.policy,
            on_stop=self.keep,
            answered=[request for request in self.kept.requests if request.id not in to_come],
        )

    def _with_beginning(self, request: Request) -> Request:
        """Return a request with the tokens of its answer that are known: an interrupted start's, or
        a policy's."""
        return replace(
            request, begun=self.partial.begun(request.id, self.engine) or self.policy.begun(request.id)
        )

    def show(self) -> None:
        """Show how far it is."""
        share = self.questions_per_request
        ended, under_way = share * self._ended, share * self.engine.stats.under_way
        self.bar.show_begun(ended, under_way, **self._news, **self.measuring.live())

    def record(self, *completions: Completion) -> bool:
        """Record the answer to a question; return whether further ones are needed."""
        sample = self.judge(sample_of(*completions), *completions)
        self.recorder.sample(sample)
        self.measuring.keep_now_and_then()
        self._ended += 1
        self.enough = self.policy.answered(sample)
        self._news = self.policy.news()
        self.show()
        return self.enough is None

    def keep(self, unfinished: list[Completion]) -> str:
        """Keep what an interrupt has found under way; say what becomes of it."""
        self.measuring.keep()
        return self.partial.keep(unfinished, self.engine, lambda name: name in self.recorder.done)
