"""Reads the logs of inspect_ai: `.eval` archives, and the same content as one `.json`.

Each score of a log is an evaluation. It has verdicts if it says right or wrong for every sample: `C` and `I`, `N` (no
answer, which is wrong), or 1 and 0. With several epochs, a sample counts as right if more than half of them are, and
runs are compared by the share of right epochs. Any other score is a number: `P` (partly right) is one half, as in
inspect_ai, and of several epochs the mean counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runner.compare.other_tools.files import Archive, field_of
from runner.compare.other_tools.tool_run import (
    LONGEST_TEXT,
    METRIC,
    ToolFile,
    ToolRun,
    ToolSample,
    as_number,
    check_mean,
    params_of,
    texts_of,
)
from runner.core.errors import DataError
from runner.core.metrics import Better

TOOL = "inspect_ai"
SUFFIX = ".eval"
MEANS = ("accuracy", "mean")  # figures of a header that are the mean of the samples' numbers
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


class _Score(NamedTuple):
    value: Any
    answer: str | None


class _Epoch(NamedTuple):
    """How a sample was answered in one epoch."""

    sample_id: str
    number: int
    question: str
    gold: str
    text: str
    scores: dict[str, _Score]
    has_error: bool
    fields: dict[str, str]


def recognises(path: Path, content: Any) -> bool:
    """Whether a file is a log of inspect_ai; `content` is None unless it is JSON."""
    return path.suffix == SUFFIX or (isinstance(content, dict) and {"eval", "status", "version"} <= content.keys())


def read(path: Path, content: Any) -> ToolFile:
    """Return the evaluations of a log, one for each score."""
    if path.suffix == SUFFIX:
        archive = Archive(path)
        header = archive.json("header.json")
        _check_finished(path, header)
        epochs = [_epoch(path, one) for one in archive.json_below("samples/")]
    else:
        header = content
        _check_finished(path, header)
        epochs = [_epoch(path, one) for one in field_of(content, "samples", list, str(path))]
    _check_complete(path, header, epochs)
    runs, left_out = [], []
    for name in dict.fromkeys(name for one in epochs for name in one.scores):
        if all(_number(one, name) is not None for one in epochs):
            runs.append(_run(path, header, name, epochs))
        else:
            left_out.append(f"{header['eval']['task']} {name}")
    return ToolFile(runs, left_out)


def _check_finished(path: Path, header: dict[str, Any]) -> None:
    status = field_of(header, "status", str, str(path))
    for key in ("eval.task", "eval.model", "eval.created"):
        field_of(header, key, str, str(path))
    if status != "success":
        error = header.get("error")
        message = f" ({str(error['message'])[:120]})" if isinstance(error, dict) and error.get("message") else ""
        fix = "finish it with `inspect eval-retry`, or leave it out"
        raise DataError(f"{path}: the evaluation has not finished: its status is {status[:40]}{message}; {fix}")
    if header.get("invalidated") is True:
        raise DataError(f"{path}: the evaluation was invalidated: leave it out")


def _check_complete(path: Path, header: dict[str, Any], epochs: list[_Epoch]) -> None:
    expected = field_of(header, "results.total_samples", int, str(path))
    if expected != len(epochs):
        raise DataError(f"{path}: its header counts {expected} samples, and it has {len(epochs)}: it was changed")
    seen = set[tuple[str, int]]()
    for one in epochs:
        if (one.sample_id, one.number) in seen:
            raise DataError(f"{path}: sample {one.sample_id}, epoch {one.number} is duplicated")
        seen.add((one.sample_id, one.number))


def _epoch(path: Path, sample: Any) -> _Epoch:
    """Return what is compared and shown of a logged sample, which holds much more."""
    sample_id = str(field_of(sample, "id", (str, int), f"{path}: a sample"))
    where = f"{path}, sample {sample_id}"
    values = {} if sample.get("scores") is None else field_of(sample, "scores", dict, where)
    output = sample.get("output")
    text = output.get("completion") if isinstance(output, dict) else None
    return _Epoch(
        sample_id,
        field_of(sample, "epoch", int, where),
        _text(field_of(sample, "input", (str, list), where)),
        _text(field_of(sample, "target", (str, list), where)),
        text[-LONGEST_TEXT:] if isinstance(text, str) else "",
        dict(pair for name, score in values.items() for pair in _scores(name, score, where)),
        bool(sample.get("error")),
        texts_of(sample.get("metadata")),
    )


def _scores(name: str, score: Any, where: str) -> Iterable[tuple[str, _Score]]:
    """Yield a score by its name; a score of several values is several scores."""
    value = score.get("value") if isinstance(score, dict) else None
    answer = score.get("answer") if isinstance(score, dict) else None
    values = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    for full_name, one in values.items():
        if one is None or (isinstance(one, float) and not math.isfinite(one)):
            raise DataError(f"{where}: the score {full_name} has no value ({one})")
        yield full_name, _Score(one, answer if isinstance(answer, str) else None)


def _text(field: Any) -> str:
    """Return an input or a target as text: messages, and targets of which any is right, one below the other."""
    if isinstance(field, str):
        return field
    parts = [part.get("content", part.get("text", "")) if isinstance(part, dict) else part for part in field]
    return "\n".join(_text(part) if isinstance(part, str | list) else json.dumps(part) for part in parts)


def _number(epoch: _Epoch, name: str) -> float | None:
    """Return a score as a number; None if it is none. A sample without the score has nothing right."""
    if name not in epoch.scores:
        return 0.0
    value = epoch.scores[name].value
    return GRADES.get(value) if isinstance(value, str) else as_number(value)


def _better(header: dict[str, Any], name: str, epochs: list[_Epoch]) -> Better | None:
    """Return the direction of a score's numbers; None if it says right or wrong for each sample.

    More is better for grades, and where the log sums the score up as an accuracy; of other numbers it does not say.
    """
    if all(_number(one, name) in (0, 1) for one in epochs):
        return None
    values = [one.scores[name].value for one in epochs if name in one.scores]
    has_accuracy = any("accuracy" in metrics for metrics in _metrics(header, name))
    return Better.higher if has_accuracy or all(isinstance(it, str) for it in values) else Better.neither


def _run(path: Path, header: dict[str, Any], name: str, epochs: list[_Epoch]) -> ToolRun:
    by_sample: dict[str, list[_Epoch]] = {}
    for one in epochs:
        by_sample.setdefault(one.sample_id, []).append(one)
    order = {str(sample_id): at for at, sample_id in enumerate(_sample_ids(header))}
    in_order = sorted(by_sample, key=lambda sample_id: order.get(sample_id, len(order)))
    better = _better(header, name, epochs)
    samples = [_sample(name, by_sample[sample_id]) for sample_id in in_order]
    for sample in samples:
        if sample.has_error and better is Better.neither:
            sample.number = None  # 0 is not the worst of such numbers
    _check_means(path, header, name, samples)
    eval_spec = header["eval"]
    return ToolRun(
        tool=TOOL,
        path=path,
        task=eval_spec["task"],
        time=eval_spec["created"],
        params=_settings(header) | {METRIC: name},
        task_version=str(eval_spec.get("task_version", "")),
        samples=samples,
        facts={f"{key}_version": str(value) for key, value in (eval_spec.get("packages") or {}).items()},
        better=better,
    )


def _sample_ids(header: dict[str, Any]) -> list[Any]:
    """Return the ids of the samples in the data set's order: an archive has them as they were finished."""
    dataset = header["eval"].get("dataset")
    sample_ids = dataset.get("sample_ids") if isinstance(dataset, dict) else None
    return sample_ids if isinstance(sample_ids, list) else []


def _sample(name: str, epochs: list[_Epoch]) -> ToolSample:
    first, numbers = epochs[0], [_number(one, name) or 0.0 for one in epochs]
    solved = numbers.count(1.0)
    return ToolSample(
        first.sample_id,
        first.question,
        first.gold,
        2 * solved > len(epochs),
        first.scores[name].answer if name in first.scores else None,
        first.text,
        any(one.has_error or name not in one.scores for one in epochs),
        (solved, len(epochs)) if len(epochs) > 1 else (0, 0),
        math.fsum(numbers) / len(numbers),
        first.fields,
    )


def _metrics(header: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yield the figures that a log's header has of a score, without those that reduce epochs to something else."""
    scores = header["results"].get("scores")
    for score in scores if isinstance(scores, list) else ():
        if isinstance(score, dict) and name in (score.get("name"), f"{score.get('scorer')}.{score.get('name')}"):
            metrics = score.get("metrics")
            if isinstance(metrics, dict) and score.get("reducer") in (None, "mean"):
                yield metrics


def _check_means(path: Path, header: dict[str, Any], name: str, samples: list[ToolSample]) -> None:
    """Raise DataError if an accuracy or a mean in the header is not that of the samples."""
    config = header["eval"].get("config")
    reducer = config.get("epochs_reducer") if isinstance(config, dict) else None
    has_several = any(one.right[1] > 1 for one in samples)
    if any(one.has_error or one.number is None for one in samples) or (has_several and reducer not in (None, ["mean"])):
        return
    mean = math.fsum(one.number or 0.0 for one in samples) / len(samples)
    for metrics in _metrics(header, name):
        for key in MEANS:
            figure = metrics.get(key)
            logged = figure.get("value") if isinstance(figure, dict) and not figure.get("params") else None
            if isinstance(logged, int | float):
                check_mean(f"{path}: the {key} by {name}", mean, "samples", "its header", logged)


def _settings(header: dict[str, Any]) -> dict[str, str]:
    """Return the settings of an evaluation by keys like ours."""
    eval_spec, plan = header["eval"], header.get("plan")
    plan = plan if isinstance(plan, dict) else {}
    config = eval_spec.get("config")
    shown = {key: (config or {}).get(key) for key in ("limit", "epochs")} if isinstance(config, dict) else {}
    steps = [one for one in plan.get("steps") or () if isinstance(one, dict)]
    return {
        "model.name": eval_spec["model"],
        **params_of("model_args", eval_spec.get("model_args")),
        **params_of("generation", plan.get("config")),
        **params_of("generation", eval_spec.get("model_generate_config")),
        "task.name": eval_spec["task"],
        **params_of("task", shown),
        **params_of("task", {"solver": " → ".join(str(one.get("solver")) for one in steps) or None}),
        **params_of("task_args", eval_spec.get("task_args")),
    }
