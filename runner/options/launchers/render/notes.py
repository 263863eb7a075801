"""Message templates of notes about Ray, Slurm and hyperparameter searches."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.render.notes import Template

NOTES: Mapping[str, Template] = {
    "no_node": "jobs wait for a Ray node with {resource}={asked:g}; the largest node has {most:g}",
    "node_died": "the node of {job} has died: the job starts again on another node",
    "squeue_fails": "the command squeue failed, so the grid waits for its jobs: {error}",
    "trials_begun": "study {study}: {done} trials are complete, {left_open} interrupted trials will continue",
    "trials_without_result": "{trials} finished trials have no result in {folder}, so the table omits them",
    "best_trial": lambda trials, score, params: (
        f"best of {trials} trials: {score}\n  {' '.join(f'{key}={value}' for key, value in params.items())}"
    ),
    "pictures_drawn": lambda names, folder: f"plots of the search: {', '.join(names)} in {folder}",
}
