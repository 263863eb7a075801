"""Creates hashes and notes for the questions that `task.only`, `task.unscored` and `task.cluster` select."""

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
    """Protocol of task configs whose samples have clusters of dependent questions."""

    data: str

    @property
    def baseline_name(self) -> str | None:
        """Name of the baseline job for early stopping. None without one."""


def list_question_numbers(items: Iterable[Item]) -> list[int]:
    return [item.number for item in items]


def index_questions_by_number(items: Iterable[Item]) -> dict[int, Item]:
    return {item.number: item for item in items}


def hash_question_subset(task: QuestionsConfig, items: Sequence[Item]) -> dict[str, str]:
    left_out = [item for item in items if item.left_out]
    chosen = {"only": (task.only, items), "without": (task.unscored, left_out)}
    hashes = {
        key: _hash_json_values(list_question_numbers(some))
        for key, (file, some) in chosen.items()
        if file is not None
    }
    clusters = [item.cluster for item in items]
    if task.data == EMBEDDED:
        return hashes | _hash_embedded_question_clusters(task, clusters)
    return hashes | hash_cluster_names(clusters)


def hash_cluster_names(cluster_names: list[str | None]) -> dict[str, str]:
    """Return a hash of the cluster names of all questions. Empty if no question has a cluster."""
    if not any(cluster is not None for cluster in cluster_names):
        return {}
    return {"clusters": _hash_json_values(cluster_names)}


def _hash_embedded_question_clusters(task: QuestionsConfig, clusters: list[str | None]) -> dict[str, str]:
    """Return a hash of the clusters of embedded questions. Empty if the clusters are the default ones.

    Their default was null before, and is template now: jobs with the default keep their ids.
    """
    is_default = any(clusters) or task.baseline_name is not None
    return {} if is_default else {"clusters": _hash_json_values(clusters)}


def restore_recorded_cluster(task: ClusterConfig, sample: Sample, recorded: Sample) -> Sample:
    """Return a sample with its recorded cluster, in case the job ran when task.cluster had another default.

    Jobs on embedded problems kept their ids when task.cluster=template became the default, and
    task.early_stop_vs has null as default.
    """
    may_lack = recorded.cluster is None or (sample.cluster is None and task.baseline_name)
    return replace(sample, cluster=recorded.cluster) if task.data == EMBEDDED and may_lack else sample


def make_question_subset_notes(task: QuestionsConfig, items: Sequence[Item]) -> list[Note]:
    notes, left_out = [], sum(item.left_out for item in items)
    if task.only is not None:
        notes.append(note("only", file=task.only, count=len(items)))
    if task.unscored is not None:
        count = len(items) - left_out
        notes.append(note("without", file=task.unscored, count=count, total=len(items), left_out=left_out))
    return notes


def _hash_json_values(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()
