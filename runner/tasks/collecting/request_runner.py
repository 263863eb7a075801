"""Sends a job's unanswered requests to a loaded engine, and records each answer at once."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from runner.records.engine_measurements import EngineMeasurements, MeasurementRecorder
from runner.records.partial_answers import PartialAnswersFile
from runner.tasks.base import TaskContext
from runner.tasks.collecting.policy import Policy
from runner.tasks.collecting.samples import BackgroundJudge, Judge, build_sample_from_completions
from runner.tasks.collecting.sending import report_saved_on_interrupt, send_requests
from runner.tasks.collecting.stored_answers import StoredAnswers
from runner_base import Progress, Sample
from runner_engine import Completion, Request, require_capabilities


def send_unanswered_requests(
    stored_answers: StoredAnswers,
    context: TaskContext,
    judge: Judge,
    policy: Policy,
    partial_file: PartialAnswersFile,
    earlier_measurements: EngineMeasurements | None,
    num_questions: int | None = None,
    unit: str = "questions",
) -> tuple[int | None, EngineMeasurements]:
    """Send all unanswered requests and record the answers.

    Returns the number of questions needed, or None for all, and the measurements.
    """
    task, recorder, engine = context.config.task.name, context.recorder, context.engine
    require_capabilities(
        engine.capabilities,
        f"task={task}",
        frozenset().union(*(request.required_capabilities for request in stored_answers.todo)),
    )
    count = num_questions or len(stored_answers.requests)
    with recorder.create_progress_bar(count, "loading", unit) as bar:
        measuring = MeasurementRecorder(
            engine, recorder.folder, earlier_measurements, context.config.model.is_on_server
        )
        policy.on_engine_loaded(engine, measuring.report)
        stored_answers.reject_answers_to_changed_prompts(engine)
        stored_answers.record_reused()
        policy.start(stored_answers.answered_samples)
        bar.set_title(task)
        asking = RequestRunner(stored_answers, context, judge, policy, partial_file, measuring, bar)
        asking.questions_per_request = count / len(stored_answers.requests)
        asking.send_all_rounds()
    return asking.enough, measuring.write_measurements()


class RequestRunner:
    """Sends a job's requests round by round, records each answer and updates the progress bar."""

    def __init__(
        self,
        stored_answers: StoredAnswers,
        context: TaskContext,
        judge: Judge,
        policy: Policy,
        partial: PartialAnswersFile,
        measuring: MeasurementRecorder,
        bar: Progress,
    ) -> None:
        self.kept, self.recorder, self.engine = stored_answers, context.recorder, context.engine
        self.log_progress = context.log_progress
        self.judge, self.policy, self.partial = judge, policy, partial
        self.measuring, self.bar = measuring, bar
        self.enough: int | None = None
        self.questions_per_request = 1.0
        self._ended = len(stored_answers.requests) - len(stored_answers.todo)
        self._news: dict[str, str] = {}
        self._being_judged: list[Future[Sample]] = []

    def send_all_rounds(self) -> None:
        self.show_progress()
        with report_saved_on_interrupt(self.recorder.done):
            for requests in self.policy.split_into_rounds(self.kept.todo):
                self._send_request_round([self._add_known_tokens(request) for request in requests])
                if self.enough is not None:
                    break

    def _send_request_round(self, requests: list[Request]) -> None:
        to_come = {request.id for request in requests}
        send_requests(
            self.engine,
            requests,
            self.record_answer,
            on_step=self._handle_step,
            max_in_flight=self.policy.max_in_flight,
            extra_source=self.policy,
            on_interrupt=self.save_unfinished_answers,
            answered_requests=[request for request in self.kept.requests if request.id not in to_come],
        )
        self._record_judged(max_waiting=0)

    def _handle_step(self) -> None:
        self._record_judged(max_waiting=len(self._being_judged))
        self.show_progress()

    def _record_judged(self, max_waiting: int) -> None:
        """Record the samples that a background judge has judged. Waits until at most `max_waiting` are left."""
        while self._being_judged:
            should_wait = len(self._being_judged) > max_waiting
            ended, _ = wait(self._being_judged, None if should_wait else 0, FIRST_COMPLETED)
            if not ended:
                break
            # in the order of their answers
            judged = [each for each in self._being_judged if each in ended]
            self._being_judged = [each for each in self._being_judged if each not in ended]
            for each in judged:
                self._record_sample(each.result())

    def _add_known_tokens(self, request: Request) -> Request:
        return replace(
            request,
            begun=self.partial.get_resumable_answers(request.id, self.engine)
            or self.policy.get_known_answer_tokens(request.id),
        )

    def show_progress(self) -> None:
        share = self.questions_per_request
        ended, under_way = share * self._ended, share * self.engine.stats.under_way
        self.bar.set_completed_and_pending_steps(
            ended, under_way, **self._news, **self.measuring.format_progress_fields()
        )

    def record_answer(self, *completions: Completion) -> bool:
        """Record the answer to a question. Returns whether the job needs more answers."""
        sample = build_sample_from_completions(*completions)
        if isinstance(self.judge, BackgroundJudge) and not sample.failed:
            self._being_judged.append(self.judge.start_judging(sample))
            # a question is unfinished until its answer is judged
            self._record_judged(self.policy.max_in_flight(self._ended))
            return self.enough is None
        return self._record_sample(self.judge(sample, *completions))

    def _record_sample(self, sample: Sample) -> bool:
        self.recorder.append_sample(sample)
        self.measuring.write_if_due()
        self._ended += 1
        self.enough = self.policy.on_answer(sample)
        self._news = self.policy.progress_fields()
        self.show_progress()
        if not sample.failed:
            share = self.questions_per_request
            num_answered, num_questions = len(self.recorder.done), len(self.kept.requests)
            metrics = self.policy.progress_metrics() | self.measuring.progress_metrics
            self.log_progress(int(share * num_answered), int(share * num_questions), metrics)
        return self.enough is None

    def save_unfinished_answers(self, unfinished: list[Completion]) -> str:
        """Save the unfinished answers after an interrupt. Returns a message about the saved answers."""
        self._record_judged(max_waiting=0)
        self.measuring.write_measurements()
        return self.partial.store_unfinished_answers(
            unfinished, self.engine, lambda name: name in self.recorder.done
        )
