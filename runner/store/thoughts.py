"""Reuse of another job's thoughts: greedy jobs that differ in their budget think alike until the smaller one is spent.

So a sweep over `generation.thinking_tokens` thinks once: a job begins its answers with the tokens of the job that had
the largest budget, and the engine drops those that the own budget would have replaced. A few questions are asked
directly before; if one of them has thought otherwise, all are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from runner.store.jobs import OLD, Job, read_samples
from runner_base import Answer, EvidenceError, Sample, cannot_write
from runner_engine import Begun, Engine, Request, RequestId

MARK = ".thoughts-"  # in a job's folder, followed by its key and its budget
WITHOUT_BUDGET = "all"
DIRECT = 3  # questions that are asked directly


def mark(job: Job, budget: int | None, samples: Iterable[Sample]) -> None:
    """Let jobs with a smaller budget find the thoughts of this one, if it has any."""
    if job.thoughts_key and any(one.answer.thinking for one in samples):
        name = f"{MARK}{job.thoughts_key}-{WITHOUT_BUDGET if budget is None else budget}"
        try:
            (job.folder / name).touch()
        except OSError as error:
            raise cannot_write(job.folder, error) from error


class Thoughts:
    """What another job has thought about the questions of a job."""

    def __init__(self, job: Job, budget: int | None, requests: Sequence[Request]) -> None:
        self.note = ""
        self._source, self._samples = ("", dict[int, Sample]()) if budget is None else _largest(job, budget)
        thought = [request for request in requests if request.id in self._samples and request.n == 1]
        self._direct = thought[:DIRECT] if len(thought) > DIRECT else []
        self._is_checked = False
        self._reused: set[RequestId] = set()

    def rounds(self, requests: list[Request]) -> list[list[Request]]:
        """Return the requests to ask one list after the other: the direct ones decide about the rest."""
        rest = [request for request in requests if request not in self._direct]
        return [some for some in (self._direct, rest) if some]

    def check(self, samples: Mapping[int, Sample], engine: Engine) -> None:
        """Compare what was asked directly with what the other job has, once it was asked."""
        asked = [sample for request in self._direct if (sample := samples.get(int(request.id))) is not None]
        if self._is_checked or not asked:
            return
        differing = [one.index for one in asked if not _think_alike(one.answer, self._samples[one.index].answer)]
        self._is_checked = not differing and engine.stats.can_continue
        if differing:
            self.note = (
                f"{len(differing)} of {len(asked)} questions that were asked directly, number {differing[0]} first, "
                f"have thought otherwise than job {self._source}, which differs in its budget only: none of its "
                "thoughts was reused"
            )

    def begun(self, request_id: RequestId) -> Begun | None:
        """Return the tokens with which an answer begins; None if it is asked directly."""
        sample = self._samples.get(int(request_id)) if self._is_checked else None
        if sample is None:
            return None
        self._reused.add(request_id)
        self.note = (
            f"{len(self._reused)} answers begin with the thoughts of job {self._source}, which differs in its budget "
            f"only: their time is not counted here. {len(self._direct)} others were asked directly and thought the same"
        )
        return Begun(sample.prompt_sha256, (tuple(sample.answer.token_ids),))


def _largest(job: Job, budget: int) -> tuple[str, dict[int, Sample]]:
    """Return the finished job with the largest budget that is not below this one's, and its samples that think."""
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
        thought = {it.index: it for it in samples.values() if it.answer.thinking and not it.failed and not it.choices}
        if thought:
            return name, thought
    return "", {}


def _think_alike(one: Answer, other: Answer) -> bool:
    """Whether two answers begin with the same tokens, as far as both think."""
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return alike >= min(one.thinking_tokens or 0, other.thinking_tokens or 0)
