"""Reads what lighteval writes with `--output-dir FOLDER --save-details`.

A results file (`FOLDER/results/MODEL/results_TIME.json`) names model, settings and tasks. The samples of each task are
in `FOLDER/details/MODEL/TIME/details_TASK_TIME.parquet`. A metric that is 0 or 1 for every sample is a verdict, unless
0 is better. Any other metric that has a number for every sample is compared as that number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.compare.other_tools.files import field_of, parse, read_parquet
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import (
    LONGEST_TEXT,
    METRIC,
    ToolFile,
    ToolRun,
    ToolSample,
    as_number,
    check_mean,
    check_samples_differ,
    family_of,
    params_of,
)
from runner.core.errors import DataError
from runner.core.metrics import Better

TOOL = "lighteval"
NAME = re.compile(r"results_(.+)\.json")
COLUMNS = {
    "doc": ("id", "query", "choices", "gold_index"),
    "metric": (),
    "model_response": ("text", "text_post_processed", "logprobs"),
}
OPTIONAL = {"doc": ("specific",)}  # what a task keeps with its documents
NOT_SETTINGS = ("model_name", "generation_parameters", "batch_size", "cache_dir", "dtype")


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is a results file of lighteval."""
    return outline.has("config_general", "config_tasks", "results")


def read(path: Path, raw: bytes, cluster: str | None = None) -> ToolFile:
    """Return the evaluations of a results file, one for each task and metric."""
    content = parse(raw, str(path))
    name = NAME.fullmatch(path.name)
    if name is None:
        raise DataError(f"{path}: lighteval names it results_TIME.json, and its samples are found by that time")
    field_of(content, "config_general.model_config", dict, str(path))
    field_of(content, "config_general.model_config.model_name", str, str(path))
    runs, left_out = [], []
    for task in field_of(content, "config_tasks", dict, str(path)):
        details = _details(path, task, name[1])
        rows = list(read_parquet(details, COLUMNS, OPTIONAL))
        metrics = dict.fromkeys(key for row in rows for key in row["metric"])
        for metric in metrics:
            numbers = [it for row in rows if (it := _number(details, row, metric)) is not None]
            if len(numbers) < len(rows):
                left_out.append(f"{task} {metric}")
                continue
            samples = [_sample(details, row, number, cluster) for row, number in zip(rows, numbers, strict=True)]
            check_samples_differ(details, samples)
            run = _run(path, name[1], content, task, metric, samples)
            better = _better(content, task, metric)
            is_verdict = better is not Better.lower and all(it in (0, 1) for it in numbers)
            run.better = None if is_verdict else better
            if is_verdict or _is_mean(content, task, metric):
                results = field_of(content, "results", dict, str(path)).get(task)
                logged = results.get(metric) if isinstance(results, dict) else None
                mean = math.fsum(numbers) / len(numbers)
                check_mean(f"{path}: {metric} of {task}", mean, "samples", "this file", logged)
            runs.append(run)
    return ToolFile(runs, left_out)


def _details(path: Path, task: str, time: str) -> Path:
    """Return the file of a task's samples."""
    file_name = f"details_{task}_{time}.parquet"
    folders = [path.parent]
    for above in path.parents:
        if above.name == "results":
            folders.append(above.parent / "details" / path.parent.relative_to(above) / time)
    if "/" not in task and "\0" not in task:
        for folder in folders:
            if (folder / file_name).exists():
                return folder / file_name
    where = " or ".join(map(str, folders))
    raise DataError(f"{path}: {file_name} is not in {where}: lighteval writes it with --save-details")


def _number(path: Path, row: dict[str, Any], metric: str) -> float | None:
    """Return a sample's metric; None if it is no number of this sample alone."""
    value = row["metric"].get(metric)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise DataError(f"{path}: {metric} of sample {row['doc']['id']} has no value ({value})")
    return as_number(value)


def _settings_of(content: dict[str, Any], task: str, metric: str) -> dict[str, Any]:
    """Return what a task's settings say of a metric."""
    config = content["config_tasks"][task]
    metrics = config.get("metrics") if isinstance(config, dict) else None
    named = (one for one in metrics or () if isinstance(one, dict) and one.get("metric_name") == metric)
    return next(named, {})


def _better(content: dict[str, Any], task: str, metric: str) -> Better:
    """Return the direction of a metric, if the task's settings say which it is."""
    is_higher = _settings_of(content, task, metric).get("higher_is_better")
    directions = {True: Better.higher, False: Better.lower}
    return directions[is_higher] if isinstance(is_higher, bool) else Better.neither


def _is_mean(content: dict[str, Any], task: str, metric: str) -> bool:
    return bool(_settings_of(content, task, metric).get("corpus_level_fn") == "mean")


def _sample(path: Path, row: dict[str, Any], number: float, cluster: str | None) -> ToolSample:
    doc, answer = row["doc"], row["model_response"]
    where = f"{path}, sample {doc['id']}"
    choices = field_of(doc, "choices", list, where)
    gold = field_of(doc, "gold_index", (int, list), where)
    golds = [choices[at] for at in ([gold] if isinstance(gold, int) else gold) if 0 <= at < len(choices)]
    family, fields = family_of(doc.get("specific"), cluster)
    shown = "\n".join(_answers(answer, choices))
    return ToolSample(
        str(field_of(doc, "id", (str, int), where)),
        field_of(doc, "query", str, where),
        "\n".join(map(str, golds)),
        number == 1,
        None if answer.get("text") else _best(answer, choices),
        shown[-LONGEST_TEXT:],
        number=number,
        cluster=family,
        fields=fields,
    )


def _answers(answer: dict[str, Any], choices: list[Any]) -> Iterator[str]:
    """Yield the first text, or each choice with its log-likelihood."""
    texts = answer.get("text_post_processed") or answer.get("text") or []
    if texts:
        yield str(texts[0])
    else:
        yield from (f"{nats:9.3f} {choice}" for nats, choice in _scored(answer, choices))


def _best(answer: dict[str, Any], choices: list[Any]) -> str | None:
    """Return the choice with the largest log-likelihood."""
    return max(_scored(answer, choices), default=(0.0, None))[1]


def _scored(answer: dict[str, Any], choices: list[Any]) -> list[tuple[float, str]]:
    nats = answer.get("logprobs") or []
    return [(one, str(choice)) for one, choice in zip(nats, choices, strict=False) if isinstance(one, float)]


def _run(path: Path, time: str, content: dict[str, Any], task: str, metric: str, samples: list[ToolSample]) -> ToolRun:
    general, task_config = content["config_general"], content["config_tasks"][task]
    model = general["model_config"]
    rest = {key: value for key, value in model.items() if key not in NOT_SETTINGS and value != {}}
    shots = task_config.get("num_fewshots") if isinstance(task_config, dict) else None
    return ToolRun(
        tool=TOOL,
        path=path,
        task=task,
        time=time,
        params={
            "model.name": model["model_name"],
            **params_of("model", {"dtype": model.get("dtype")}),
            **params_of("model_args", rest),
            **params_of("generation", model.get("generation_parameters")),
            "task.name": task,
            **params_of("task", {"shots": shots, "limit": general.get("max_samples")}),
            METRIC: metric,
        },
        task_version=str((content.get("versions") or {}).get(task, "")),
        samples=samples,
        facts={"lighteval_version": str(general.get("lighteval_sha"))},
    )
