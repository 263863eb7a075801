"""What `task.only`, `task.without` and `task.cluster` have chosen: numbers of questions, hashes,
notes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from runner.config.questions import EMBEDDED, QuestionsConfig
from runner.datasets.items import Item
from runner_base import Sample
from runner_base.notes import Note, note


class JudgedKeys(Protocol):
    """The keys of a task that say which clusters its samples may have."""

    data: str

    @property
    def compared_with(self) -> str | None:
        """The job that it is compared with while it runs."""


def numbers_of(items: Iterable[Item]) -> list[int]:
    """Return the numbers of questions in their job."""
    return [item.number for item in items]


def by_number(items: Iterable[Item]) -> dict[int, Item]:
    """Return questions by their numbers in the job."""
    return {item.number: item for item in items}


def hashes_of_choice(task: QuestionsConfig, items: Sequence[Item]) -> dict[str, str]:
    """Return the hashes of the questions that files choose or leave out, and of the families of all
    questions."""
    left_out = [item for item in items if item.left_out]
    chosen = {"only": (task.only, items), "without": (task.without, left_out)}
    hashes = {key: _sha256(numbers_of(some)) for key, (file, some) in chosen.items() if file is not None}
    clusters = [item.cluster for item in items]
    if task.data == EMBEDDED:
        return hashes | _embedded_cluster_hashes(task, clusters)
    return hashes | cluster_hashes(clusters)


def cluster_hashes(clusters: list[str | None]) -> dict[str, str]:
    """Fingerprint of the families that questions belong to; empty without families."""
    if not any(cluster is not None for cluster in clusters):
        return {}
    return {"clusters": _sha256(clusters)}


def _embedded_cluster_hashes(task: QuestionsConfig, clusters: list[str | None]) -> dict[str, str]:
    """Fingerprint embedded problems only where task.cluster=null is explicit.

    Their default was null before, and is template now: jobs with the default keep their ids.
    """
    is_default = any(clusters) or task.compared_with is not None
    return {} if is_default else {"clusters": _sha256(clusters)}


def with_recorded_cluster(task: JudgedKeys, sample: Sample, recorded: Sample) -> Sample:
    """Return a sample with the cluster of its record, where the job began with another default.

    Jobs on embedded problems kept their ids when task.cluster=template became the default, and
    task.early_stop_vs has null as default.
    """
    may_lack = recorded.cluster is None or (sample.cluster is None and task.compared_with)
    return replace(sample, cluster=recorded.cluster) if task.data == EMBEDDED and may_lack else sample


def choice_notes(task: QuestionsConfig, items: Sequence[Item]) -> list[Note]:
    """Return how many questions are asked and how many of them count, if files choose them."""
    notes, left_out = [], sum(item.left_out for item in items)
    if task.only is not None:
        notes.append(note("only", file=task.only, count=len(items)))
    if task.without is not None:
        count = len(items) - left_out
        notes.append(note("without", file=task.without, count=count, total=len(items), left_out=left_out))
    return notes


def _sha256(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()
