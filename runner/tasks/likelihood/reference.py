"""The job that task=likelihood is compared with, and what it has kept of its samples: read when it is done.

No task itself. A job that is its own reference is compared with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runner.config.likelihood import KEPT, LikelihoodConfig
from runner.config.root import RunnerConfig
from runner.core.errors import ConfigError, EvidenceError, few
from runner.core.result import Sample
from runner.engines.base import Completion, Request
from runner.scorers.divergence import Divergence, diverge
from runner.store.jobs import Job, read_samples
from runner.store.top_k import TOP_K, TopK, read_top_k
from runner.tasks import named_job

KEY = "task.reference"
TOP_K_HASH = "keep_top_k"  # its name among the hashes


def find(config: RunnerConfig, version: int, hashes: dict[str, str]) -> Job | None:
    """Return the job that a job is compared with, be it done or not; None where that is none or the job itself.

    `hashes` are the job's own; a reference keeps as many tokens as the job itself, or 64;
    of one that is loaded beside it, nothing has to be kept.
    """
    task = config.task
    assert isinstance(task, LikelihoodConfig)
    if task.reference is None:
        return None
    kept = {} if task.exact else {TOP_K_HASH: hashes.get(TOP_K_HASH, str(KEPT))}
    return named_job.find(config, KEY, task.reference, version, hashes, hashes | kept)


@dataclass
class ReferenceJob:
    """What a finished job has kept of its samples."""

    words: str  # how the user has named it
    job: Job
    samples: dict[int, Sample]
    kept: dict[int, TopK]

    @classmethod
    def read(cls, job: Job, words: str) -> ReferenceJob:
        """Read a job that is done, after waiting for who is doing it; ConfigError says what to run."""
        named = f"{KEY}={words}"
        if named_job.waited_for(job) is None:
            if words == job.job_id:
                there = sorted(path.parent.name for path in job.folder.parent.glob(f"likelihood-*/{TOP_K}"))
                known = f"jobs that can be one are {few(there, 6)}" if there else "none has been run with it yet"
                raise ConfigError(f"{named}: no finished job in {job.folder.parent}. A reference is run with "
                                  f"task.keep_top_k={KEPT}: {known}")  # fmt: skip
            raise ConfigError(
                f"{named}: that job ({job.job_id}) is not done in {job.folder.parent}. Run it first: the same command "
                f"with {words} task.keep_top_k={KEPT} and without {KEY}"
            )
        path = job.folder / TOP_K
        if not path.is_file():
            raise ConfigError(f"{named}: {job.job_id} has kept no {TOP_K}: run it with task.keep_top_k={KEPT}")
        return cls(words, job, read_samples(job.samples_path), read_top_k(path))

    def beside(self, request: Request, question: str | None, gold: str | None) -> Request:
        """Return a request that also asks for what the reference has kept of this text."""
        index = int(request.id)
        sample, kept = self.samples.get(index), self.kept.get(index)
        if sample is None or kept is None or sample.failed or (sample.question, sample.gold) != (question, gold):
            raise ConfigError(
                f"{KEY}={self.words}: {self.job.job_id} has not scored text {index} of this job: it was run on other "
                "data, or with another task.limit, task.offset or task.window"
            )
        if len(sample.token_ids) != kept.places:
            raise EvidenceError(f"{self.job.folder / TOP_K}: sample {index} has {kept.places} places, and its text "
                                f"{len(sample.token_ids)} tokens")  # fmt: skip
        return replace(request, beside=kept.ids_by_position(), top=max(request.top, 1))

    def divergence(self, completion: Completion) -> Divergence:
        """Return how far this model is from the reference over one text; ConfigError where its tokens are others."""
        index = int(completion.id)
        sample, kept = self.samples[index], self.kept[index]
        if (sample.prompt_sha256, sample.token_ids) != (completion.prompt_sha256, completion.token_ids):
            raise ConfigError(
                f"{KEY}={self.words}: {self.job.job_id} has read text {index} as other tokens, behind another prompt "
                "or by another tokenizer: the two models cannot be compared token by token"
            )
        same = [ours[0][0] == kept.ids[at * kept.width] for at, ours in enumerate(completion.top or [])]
        return diverge(kept.width, kept.logprobs, completion.beside or [], completion.least or [], same)
