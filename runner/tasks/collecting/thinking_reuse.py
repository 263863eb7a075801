"""Reuses the thinking of another greedy job that differs only in its thinking budget.

So a sweep over `generation.thinking_tokens` thinks once. A job starts its answers with the
tokens of the job with the largest budget, and the engine truncates them at the own budget. A
few questions are answered directly before; if one of them differs, all are answered directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from runner.records.jobs import OLD, Job, read_samples
from runner.tasks.base import TaskContext
from runner.tasks.collecting.policy import Policy
from runner_base import Answer, RunRecordError, Sample, convert_write_error
from runner_base.notes import Note, note
from runner_engine import PartialAnswers, Request, RequestId

MARK = ".thoughts-"  # in a job's folder, followed by its key and its budget
WITHOUT_BUDGET = "all"
DIRECT = 3  # questions that are asked directly


def mark_reusable_thinking(job: Job, thinking_budget: int | None, samples: Iterable[Sample]) -> None:
    """Create a marker file, by which jobs with a smaller thinking budget find and reuse this job's thinking."""
    if job.thoughts_key and any(sample.answer.thinking for sample in samples):
        name = f"{MARK}{job.thoughts_key}-{WITHOUT_BUDGET if thinking_budget is None else thinking_budget}"
        try:
            (job.folder / name).touch()
        except OSError as error:
            raise convert_write_error(job.folder, error) from error


class ThinkingReuse(Policy):
    """Policy that starts answers with another job's thinking about the same question."""

    def __init__(self, context: TaskContext) -> None:
        self.context, self.budget = context, context.config.generation.thinking_tokens
        self._source, self._samples = "", dict[int, Sample]()
        self._is_checked = False
        self._direct: list[Request] = []
        self._reused: set[RequestId] = set()
        self._note: Note | None = None

    def split_into_rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield a few questions to verify that the model repeats the stored thinking, then the other
        questions.
        """
        if self.budget is not None:
            self._source, self._samples = _find_job_with_longer_thinking(
                self.context.recorder.job, self.budget
            )
        thought = [request for request in requests if request.id in self._samples and request.n == 1]
        self._direct = thought[:DIRECT] if len(thought) > DIRECT else []
        rest = [request for request in requests if request not in self._direct]
        if self._direct:
            yield self._direct
            self._check_model_repeats_stored_thinking()
        if rest:
            yield rest

    def get_known_answer_tokens(self, request_id: RequestId) -> PartialAnswers | None:
        sample = self._samples.get(int(request_id)) if self._is_checked else None
        if sample is None:
            return None
        self._reused.add(request_id)
        self._note = note(
            "thoughts_reused", count=len(self._reused), job=self._source, asked_directly=len(self._direct)
        )
        return PartialAnswers(sample.prompt_sha256, (tuple(sample.answer.token_ids),))

    def finish(self, samples: Iterable[Sample]) -> None:
        """Let jobs with a smaller thinking budget reuse this job's thinking."""
        mark_reusable_thinking(self.context.recorder.job, self.budget, samples)

    def notes(self) -> list[Note]:
        return [] if self._note is None else [self._note]

    def _check_model_repeats_stored_thinking(self) -> None:
        done = self.context.recorder.done
        asked = [sample for request in self._direct if (sample := done.get(int(request.id))) is not None]
        differing = [
            sample.index
            for sample in asked
            if not _has_same_thinking(sample.answer, self._samples[sample.index].answer)
        ]
        self._is_checked = bool(asked) and not differing and self.context.engine.stats.can_continue
        if differing:
            self._note = note(
                "thoughts_differ",
                count=len(differing),
                asked=len(asked),
                first=differing[0],
                job=self._source,
            )


def _find_job_with_longer_thinking(job: Job, thinking_budget: int) -> tuple[str, dict[int, Sample]]:
    prefix = f"{MARK}{job.thoughts_key}-"
    found: list[tuple[float, str]] = []
    if not job.thoughts_key:
        return "", {}
    for path in job.folder.parent.glob(f"*/{prefix}*"):
        name, other = path.name.removeprefix(prefix), path.parent
        most = float("inf") if name == WITHOUT_BUDGET else float(name)
        if most > thinking_budget and other.name != job.job_id and OLD not in other.name:
            found.append((-most, other.name))
    for _, name in sorted(found):
        try:
            samples = read_samples(Job(name, job.folder.with_name(name)).samples_path)
        except (RunRecordError, OSError):
            continue  # they are asked directly, as if there was no other job
        thought = {
            sample.index: sample
            for sample in samples.values()
            if sample.answer.thinking and not sample.failed and not sample.choices
        }
        if thought:
            return name, thought
    return "", {}


def _has_same_thinking(answer: Answer, other: Answer) -> bool:
    """Return whether one answer's thinking tokens are a prefix of the other answer's thinking tokens."""
    pairs = zip(answer.token_ids, other.token_ids, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return alike >= min(answer.thinking_tokens or 0, other.thinking_tokens or 0)
