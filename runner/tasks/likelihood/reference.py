"""Reads the finished reference job of task=likelihood, with the top-k tokens that the job has stored.

Not a task. A job that is its own reference is compared with nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.records.top_k import TOP_K, TopK, read_top_k_file
from runner.scorers import Divergence, compute_divergence_lower_bound, estimate_divergence_from_draws
from runner.tasks import Job, RunnerConfig, named_job, read_samples, typed_task_config
from runner.tasks.likelihood.keys import KEPT, LikelihoodConfig
from runner_base import ConfigError, RunRecordError, Sample, join_first_names
from runner_engine import Completion, Request

KEY = "task.reference"
TOP_K_HASH = "keep_top_k"  # its name among the hashes


def find_reference_job(
    config: RunnerConfig, version: int, hashes: dict[str, str], is_exact: bool
) -> Job | None:
    """Return the reference job, which may be unfinished. None if this job has no reference.

    `hashes` are the job's own. A reference keeps as many tokens as the job itself, or 64; so does
    the job itself where it is the reference. A reference in memory need not keep any.
    """
    task = typed_task_config(config, LikelihoodConfig)
    if task.reference is None:
        return None
    kept = hashes if is_exact else hashes | {TOP_K_HASH: hashes.get(TOP_K_HASH, str(KEPT))}
    return named_job.find_referenced_job(
        config, KEY, task.reference, version, kept, allowed_groups=named_job.SCORING
    )


@dataclass
class ReferenceJob:
    """A finished reference job, with its samples and the top-k tokens stored for each position."""

    named_as: str  # how the user has named it
    job: Job
    samples: dict[int, Sample]
    kept: dict[int, TopK]

    @classmethod
    def load(cls, job: Job, reference_name: str) -> ReferenceJob:
        """Wait for the reference job, then read its samples and stored tokens."""
        if named_job.wait_for_job_record(job) is None:
            if reference_name == job.job_id:
                usable = sorted(path.parent.name for path in job.folder.parent.glob(f"likelihood-*/{TOP_K}"))
                known = f"References are {join_first_names(usable, 6)}" if usable else "There is none yet"
                raise ConfigError(f"{job.folder.parent} has no finished job with this id. Run a reference "
                                  f"with task.keep_top_k={KEPT}. {known}",
                                  key=KEY, value=reference_name, code="not_found")  # fmt: skip
            raise named_job.build_not_finished_error(KEY, reference_name, job, f" task.keep_top_k={KEPT}")
        path = job.folder / TOP_K
        if not path.is_file():
            raise ConfigError(
                f"{job.job_id} has no file {TOP_K}. Run that job with task.keep_top_k={KEPT}",
                key=KEY,
                value=reference_name,
                code="missing",
            )
        return cls(reference_name, job, read_samples(job.samples_path), read_top_k_file(path))

    def add_reference_tokens_to_request(
        self, request: Request, question: str | None, gold: str | None
    ) -> Request:
        """Add the reference's stored tokens to a request, so that the engine scores them too."""
        index = int(request.id)
        sample, kept = self.samples.get(index), self.kept.get(index)
        if (
            sample is None
            or kept is None
            or sample.failed
            or (sample.question, sample.gold) != (question, gold)
        ):
            raise ConfigError(
                (
                    f"{self.job.job_id} has not scored document {index}. The jobs differ in data, "
                    "task.limit, task.offset or task.window"
                ),
                key=KEY,
                value=self.named_as,
                code="mismatch",
            )
        if len(sample.answer.token_ids) != kept.num_positions:
            raise RunRecordError(f"sample {index} has {kept.num_positions} positions, but its document has "
                                 f"{len(sample.answer.token_ids)} tokens",
                                key=self.job.folder / TOP_K, code="damaged")  # fmt: skip
        return replace(
            request, score_token_ids=kept.ids_by_position(), top_logprobs=max(request.top_logprobs, 1)
        )

    def compute_divergence(self, completion: Completion) -> Divergence:
        """Return the divergence from the reference on one text. Raises ConfigError if the tokens differ."""
        index = int(completion.id)
        sample, kept = self.samples[index], self.kept[index]
        if (sample.prompt_sha256, sample.answer.token_ids) != (
            completion.prompt_sha256,
            completion.answer.token_ids,
        ):
            raise ConfigError(
                (
                    f"{self.job.job_id} tokenizes document {index} differently or uses another "
                    "prompt, so the two models cannot be compared token by token"
                ),
                key=KEY,
                value=self.named_as,
                code="mismatch",
            )
        firsts = [
            (kept.ids[at * kept.width], best[0][0]) for at, best in enumerate(completion.top_logprobs or [])
        ]
        same = [reference_first == first for reference_first, first in firsts]
        logprobs = completion.score_token_logprobs or []
        least = completion.min_logprobs or [-math.inf] * len(logprobs)  # not known: no upper bound
        if kept.drawn:
            drawn = kept.drawn, kept.drawn_logprobs
            found = estimate_divergence_from_draws(kept.width, kept.logprobs, *drawn, logprobs, least, same)
        else:
            found = compute_divergence_lower_bound(kept.width, kept.logprobs, logprobs, least, same)
        return replace(found, firsts=firsts)

    def pop_reference_logprobs(self, index: int) -> Sequence[float]:
        """Return the reference's log-probabilities of a text. Empty if none are stored."""
        return self.kept[index].scored
