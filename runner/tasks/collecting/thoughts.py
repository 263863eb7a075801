"""Reuse of another job's thoughts: greedy jobs that differ in their budget think alike until the
smaller one is spent.

So a sweep over `generation.thinking_tokens` thinks once: a job begins its answers with the tokens
of the job that had the largest budget, and the engine drops those that the own budget would have
replaced. A few questions are asked directly before; if one of them has thought otherwise, all are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from runner.records.jobs import OLD, Job, read_samples
from runner.tasks.base import Context
from runner.tasks.collecting.policy import Policy
from runner_base import Answer, EvidenceError, Sample, cannot_write
from runner_base.notes import Note, note
from runner_engine import Begun, Request, RequestId

MARK = ".thoughts-"  # in a job's folder, followed by its key and its budget
WITHOUT_BUDGET = "all"
DIRECT = 3  # questions that are asked directly


def mark(job: Job, budget: int | None, samples: Iterable[Sample]) -> None:
    """Let jobs with a smaller budget find the thoughts of this one, if it has any."""
    if job.thoughts_key and any(sample.answer.thinking for sample in samples):
        name = f"{MARK}{job.thoughts_key}-{WITHOUT_BUDGET if budget is None else budget}"
        try:
            (job.folder / name).touch()
        except OSError as error:
            raise cannot_write(job.folder, error) from error


class ReuseOfThoughts(Policy):
    """Begins answers with what another job has thought about their questions."""

    def __init__(self, context: Context) -> None:
        self.context, self.budget = context, context.config.generation.thinking_tokens
        self._source, self._samples = "", dict[int, Sample]()
        self._is_checked = False
        self._direct: list[Request] = []
        self._reused: set[RequestId] = set()
        self._note: Note | None = None

    def rounds(self, requests: list[Request]) -> Iterator[list[Request]]:
        """Yield the few questions that are asked directly, and the rest, about which these
        decide."""
        if self.budget is not None:
            self._source, self._samples = _largest(self.context.recorder.job, self.budget)
        thought = [request for request in requests if request.id in self._samples and request.n == 1]
        self._direct = thought[:DIRECT] if len(thought) > DIRECT else []
        rest = [request for request in requests if request not in self._direct]
        if self._direct:
            yield self._direct
            self._check()
        if rest:
            yield rest

    def begun(self, request: RequestId) -> Begun | None:
        """Return the tokens with which an answer begins; None if it is asked directly."""
        sample = self._samples.get(int(request)) if self._is_checked else None
        if sample is None:
            return None
        self._reused.add(request)
        self._note = note(
            "thoughts_reused", count=len(self._reused), job=self._source, asked_directly=len(self._direct)
        )
        return Begun(sample.prompt_sha256, (tuple(sample.answer.token_ids),))

    def end(self, samples: Iterable[Sample]) -> None:
        """Let jobs with a smaller budget find the thoughts of this one."""
        mark(self.context.recorder.job, self.budget, samples)

    def notes(self) -> list[Note]:
        """Return what was reused, or why nothing was."""
        return [] if self._note is None else [self._note]

    def _check(self) -> None:
        """Compare what was asked directly with what the other job has."""
        done = self.context.recorder.done
        asked = [sample for request in self._direct if (sample := done.get(int(request.id))) is not None]
        differing = [
            sample.index
            for sample in asked
            if not _think_alike(sample.answer, self._samples[sample.index].answer)
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


def _largest(job: Job, budget: int) -> tuple[str, dict[int, Sample]]:
    """Return the finished job with the largest budget that is not below this one's, and its samples
    that think."""
    prefix = f"{MARK}{job.thoughts_key}-"
    found: list[tuple[float, str]] = []
    if not job.thoughts_key:
        return "", {}
    for path in job.folder.parent.glob(f"*/{prefix}*"):
        name, other = path.name.removeprefix(prefix), path.parent
        most = float("inf") if name == WITHOUT_BUDGET else float(name)
        if most > budget and other.name != job.job_id and OLD not in other.name:
            found.append((-most, other.name))
    for _, name in sorted(found):
        try:
            samples = read_samples(Job(name, job.folder.with_name(name)).samples_path)
        except (EvidenceError, OSError):
            continue  # they are asked directly, as if there was no other job
        thought = {
            sample.index: sample
            for sample in samples.values()
            if sample.answer.thinking and not sample.failed and not sample.choices
        }
        if thought:
            return name, thought
    return "", {}


def _think_alike(answer: Answer, other: Answer) -> bool:
    """Whether two answers begin with the same tokens, as far as both think."""
    pairs = zip(answer.token_ids, other.token_ids, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return alike >= min(answer.thinking_tokens or 0, other.thinking_tokens or 0)
