"""Judges answers of task=code: runs their programs with the tests, several at once and beside the decoding."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace

from runner.options.code.extraction import extract_program
from runner.options.code.problems import CodeProblem
from runner.sandbox.program_tests import TestedProgram, TestOutcome, run_program_with_tests
from runner.sandbox.sandbox import Sandbox, SandboxLimits
from runner_base import Answer, FinishReason, Sample, Verdict, machine
from runner_base.notes import Note, note

PROGRAM, OUTCOME, REASON = "program", "outcome", "reason"  # what a sample records of an answer
NO_PROGRAM = "no_program"
OUTCOMES = (*(outcome.value for outcome in TestOutcome), NO_PROGRAM)
CLOCK_FACTOR = 4  # a program that waits, or shares its core, gets so many times its CPU time

PRINTED_KIB = 1024  # many tests call a function that prints


def count_parallel_programs() -> int:
    """Return how many programs may run at once. One core stays free for decoding."""
    return max(1, machine.count_available_cpu_cores() - 1)


def create_program_limits(timeout_s: int, memory_mib: int) -> SandboxLimits:
    return SandboxLimits(CLOCK_FACTOR * timeout_s, timeout_s, memory_mib, printed_kib=PRINTED_KIB)


class CodeJudge(AbstractContextManager["CodeJudge"]):
    """Adds the verdict to samples of task=code. Each program runs once, in another thread."""

    def __init__(self, problems: Mapping[int, CodeProblem], num_samples: int, sandbox: Sandbox) -> None:
        self.problems, self.num_samples, self.sandbox = problems, num_samples, sandbox
        self._threads = ThreadPoolExecutor(count_parallel_programs(), "programs")
        self._lock = threading.Lock()
        self._started: dict[tuple[int, str], Future[TestedProgram]] = {}

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        return self.start_judging(sample).result()

    def start_judging(self, sample: Sample) -> Future[Sample]:
        """Start the programs of a sample in other threads. The future is done when the last one has ended."""
        problem, judged = self.problems[sample.index], Future[Sample]()
        programs = [extract_program(_get_response(answer), problem) for answer in sample.answers]
        running = [program and self._start_program(sample.index, program) for program in programs]
        left = {each for each in running if isinstance(each, Future)}
        remaining, lock = len(left), threading.Lock()

        def finish() -> None:
            try:
                outcomes = [each.result() if isinstance(each, Future) else None for each in running]
                judged.set_result(_add_verdicts(sample, problem, programs, outcomes))
            except BaseException as error:  # noqa: BLE001 - the caller of result() gets it
                judged.set_exception(error)

        def finish_after_last_program(_: object) -> None:
            nonlocal remaining
            with lock:
                remaining -= 1
                is_last = remaining == 0
            if is_last:
                finish()

        for each in left:
            each.add_done_callback(finish_after_last_program)
        if not left:
            finish()
        return judged

    def _start_program(self, index: int, program: str) -> Future[TestedProgram]:
        """Start a program, unless another answer to the same problem has the same program."""
        problem = self.problems[index]
        with self._lock:
            if (index, program) not in self._started:
                self._started[index, program] = self._threads.submit(
                    run_program_with_tests,
                    self.sandbox,
                    program,
                    problem.tests,
                    problem.names,
                    problem.functions,
                )
            return self._started[index, program]

    def rejection_reason(self, sample: Sample) -> Note | None:
        """Return why a stored sample does not belong to this job. The programs do not run again."""
        if not self._has_same_problem(sample):
            return note("other_question", index=sample.index)
        if sample.failed:
            return None
        if len(sample.answers) != self.num_samples:
            return note("other_count", answers=len(sample.answers), wanted=self.num_samples)
        is_same = all(self._is_recorded_judgment_unchanged(answer, sample.index) for answer in sample.answers)
        return None if is_same else note("judged_differently")

    def _is_recorded_judgment_unchanged(self, answer: Answer, index: int) -> bool:
        recorded = answer.extracted or {}
        program = extract_program(_get_response(answer), self.problems[index])
        outcome = recorded.get(OUTCOME)
        return (
            recorded.get(PROGRAM) == program
            and outcome in OUTCOMES
            and (outcome == NO_PROGRAM) == (program is None)
            and answer.verdict is _choose_verdict(answer, str(outcome))
        )

    def adopt_sample(self, sample: Sample) -> Sample | None:
        """Judge another job's sample for this job. Returns None if it answers another problem."""
        if not self._has_same_problem(sample) or len(sample.answers) != self.num_samples:
            return None
        return self(sample)

    def _has_same_problem(self, sample: Sample) -> bool:
        problem = self.problems.get(sample.index)
        if problem is None:
            return False
        return sample.failed or (sample.question, sample.gold) == (problem.prompt, problem.solution)


def _get_response(answer: Answer) -> str:
    """Return the text after the thinking. Errors and answers cut off while thinking have none."""
    parts = answer.parts
    return "" if parts.is_open or answer.finish_reason is FinishReason.error else parts.answer


def _add_verdicts(
    sample: Sample, problem: CodeProblem, programs: list[str | None], outcomes: list[TestedProgram | None]
) -> Sample:
    answers = [
        _judge_answer(answer, program, outcome)
        for answer, program, outcome in zip(sample.answers, programs, outcomes, strict=True)
    ]
    answer = answers[0]
    if sample.choices is not None:
        sample, answer = replace(sample, choices=answers), answer.without_tokens()
        if sample.failed:
            answer = replace(answer, finish_reason=FinishReason.error)
    return replace(sample, answer=answer, question=problem.prompt, gold=problem.solution)


def _judge_answer(answer: Answer, program: str | None, tested: TestedProgram | None) -> Answer:
    outcome = NO_PROGRAM if tested is None else tested.outcome.value
    reason = tested.reason if tested is not None and tested.reason else None
    return replace(
        answer,
        extracted={PROGRAM: program, OUTCOME: outcome, REASON: reason},
        verdict=_choose_verdict(answer, outcome),
    )


def _choose_verdict(answer: Answer, outcome: str) -> Verdict:
    if outcome == TestOutcome.passed:
        return Verdict.correct
    if answer.is_unfinished:
        return Verdict.cut_off
    return Verdict.no_answer if outcome == NO_PROGRAM else Verdict.wrong
