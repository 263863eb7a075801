"""Reads the answers of a finished job, with the prompts that they answer, so that they can be scored.

Samples have no prompts. So the job's own task builds its requests again, from the recorded
config. The recorded hashes of the prompts show later whether the requests are still the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from runner.config.error_messages import convert_config_errors
from runner.config.groups import GROUPS
from runner.config.root import RunnerConfig
from runner.datasets.scored_texts import RecordedAnswer, ScoredItem, TextContext
from runner.records.jobs import SAMPLES, Job, read_samples
from runner.tasks.base import import_task_module
from runner.tasks.named_job import find_job_by_id
from runner_base import Answer, ConfigError, RunRecordError, Sample, join_first_names
from runner_engine import Request

CONFIG = "config.yaml"  # of a job's folder
GROUPS_OF_PROMPTS = ("task", "generation")


@runtime_checkable
class BuildsRequests(Protocol):
    """Task module whose requests, and so their prompts, follow from its inputs."""

    def build_job_requests(self, inputs: Any) -> list[Request]:
        """Return the requests of a job in order. A request's id is the index of its sample."""
        ...


def load_recorded_answers(config: RunnerConfig, key: str, job_name: str) -> list[ScoredItem]:
    """Return all answers of a job, in order, with their prompts. Empty and failed answers are omitted."""
    job = _find_job_with_answers(config, key, job_name)
    samples = read_samples(job.samples_path)
    requests = _build_requests_again(config, job, key, job_name)
    answered = [(samples[index], requests[index]) for index in sorted(samples) if not samples[index].failed]
    items = [item for sample, request in answered for item in _create_item_per_answer(sample, request)]
    if not items:
        raise ConfigError(f"{job.job_id} has no answer with text", key=key, value=job_name, code="empty")
    return items


def _find_job_with_answers(config: RunnerConfig, key: str, job_name: str) -> Job:
    folder = Path(job_name).expanduser().absolute()
    job = Job(folder.name, folder)
    if not job.samples_path.is_file():
        job = find_job_by_id(config, job_name)
    if not job.samples_path.is_file() or job.read_last_record() is None:
        jobs = find_job_by_id(config, "").folder
        names = sorted(path.parent.name for path in jobs.glob(f"*/{SAMPLES}"))
        known = f"Jobs with answers are {join_first_names(names, 6)}" if names else f"{jobs} has none"
        raise ConfigError(
            f"no finished job has this id or folder. {known}", key=key, value=job_name, code="not_found"
        )
    return job


def _build_requests_again(config: RunnerConfig, job: Job, key: str, job_name: str) -> dict[int, Request]:
    source = _compose_recorded_config(config, job)
    module = import_task_module(source)
    if not isinstance(module, BuildsRequests):
        raise ConfigError(
            (
                f"answers of task={source.task.name} cannot be scored, because their prompts are not "
                "known. Give a job of task=generate, gsm8k, instructions or code"
            ),
            key=key,
            value=job_name,
            code="unsupported",
        )
    inputs = module.prepare(source)
    requests = {int(request.id): request for request in module.build_job_requests(inputs)}
    if any(request.branches for request in requests.values()):
        raise ConfigError(
            "answers with branches cannot be scored. Give a job without task.branches",
            key=key,
            value=job_name,
            code="unsupported",
        )
    return requests


def _compose_recorded_config(config: RunnerConfig, job: Job) -> RunnerConfig:
    """Return this job's config with the task and the generation settings of a recorded job."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = job.folder / CONFIG
    try:
        recorded: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        names = {group: recorded[group].pop("name") for group in GROUPS_OF_PROMPTS}
    except (OSError, OmegaConfBaseException, YAMLError, AttributeError, KeyError, TypeError) as error:
        raise RunRecordError(
            "the file does not contain the job's config", key=path, code="damaged"
        ) from error
    with convert_config_errors():
        groups: Any = {
            group: OmegaConf.to_object(
                OmegaConf.merge(OmegaConf.structured(GROUPS[group][name]), recorded[group])
            )
            for group, name in names.items()
        }
    return replace(config, **groups)


def _create_item_per_answer(sample: Sample, request: Request) -> list[ScoredItem]:
    answers = [answer for answer in sample.answers if answer.token_ids or answer.text]
    cluster = sample.cluster
    if request.n > 1:  # the answers to one prompt depend on each other
        cluster = cluster or f"prompt {sample.index}"
    return [_create_item(sample, answer, request, cluster) for answer in answers]


def _create_item(sample: Sample, answer: Answer, request: Request, cluster: str | None) -> ScoredItem:
    recorded = RecordedAnswer(
        request.prompt, sample.prompt_sha256, sample.prompt_tokens, tuple(answer.token_ids), answer.num_tokens
    )
    return ScoredItem(
        TextContext.answer, "", (answer.text,), cluster=cluster, category=sample.category, answer=recorded
    )
