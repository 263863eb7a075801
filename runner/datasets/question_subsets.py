"""Hashes and notes for the questions that `task.only`, `task.without` and `task.cluster` select."""

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


class ClusterConfig(Protocol):
    """Protocol of task configs that assign samples to clusters of dependent questions."""

    data: str

    @property
    def baseline_name(self) -> str | None:
        """Name of the baseline job for early stopping. None without one."""


def list_question_numbers(items: Iterable[Item]) -> list[int]:
    return [item.number for item in items]


def index_questions_by_number(items: Iterable[Item]) -> dict[int, Item]:
    return {item.number: item for item in items}


def hash_question_subset(task: QuestionsConfig, items: Sequence[Item]) -> dict[str, str]:
    """Return hashes of the selected or excluded questions, and of the clusters of all questions."""
    left_out = [item for item in items if item.left_out]
    chosen = {"only": (task.only, items), "without": (task.without, left_out)}
    hashes = {
        key: _hash_json_values(list_question_numbers(some))
        for key, (file, some) in chosen.items()
        if file is not None
    }
    clusters = [item.cluster for item in items]
    if task.data == EMBEDDED:
        return hashes | _hash_embedded_clusters(task, clusters)
    return hashes | hash_clusters(clusters)


def hash_clusters(clusters: list[str | None]) -> dict[str, str]:
    """Return a hash of the assignment of questions to clusters. Empty without clusters."""
    if not any(cluster is not None for cluster in clusters):
        return {}
    return {"clusters": _hash_json_values(clusters)}


def _hash_embedded_clusters(task: QuestionsConfig, clusters: list[str | None]) -> dict[str, str]:
    """Return the hash for embedded problems without clusters. Empty unless task.cluster=null is set
    explicitly.

    Their default was null before, and is template now: jobs with the default keep their ids.
    """
    is_default = any(clusters) or task.baseline_name is not None
    return {} if is_default else {"clusters": _hash_json_values(clusters)}


def restore_recorded_cluster(task: ClusterConfig, sample: Sample, recorded: Sample) -> Sample:
    """Return a sample with the cluster of the recorded sample, if the job began with another default of
    task.cluster.

    Jobs on embedded problems kept their ids when task.cluster=template became the default, and
    task.early_stop_vs has null as default.
    """
    may_lack = recorded.cluster is None or (sample.cluster is None and task.baseline_name)
    return replace(sample, cluster=recorded.cluster) if task.data == EMBEDDED and may_lack else sample


def question_subset_notes(task: QuestionsConfig, items: Sequence[Item]) -> list[Note]:
    """Return notes on how many questions the user's lists select, and how many of them count in the
    score.
    """
    notes, left_out = [], sum(item.left_out for item in items)
    if task.only is not None:
        notes.append(note("only", file=task.only, count=len(items)))
    if task.without is not None:
        count = len(items) - left_out
        notes.append(note("without", file=task.without, count=count, total=len(items), left_out=left_out))
    return notes


def _hash_json_values(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()
