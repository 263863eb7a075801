"""Reader of the result file of Evalution's `evalution run SPEC --output FILE`, or of its `RunResult.to_dict()`.

Each score of a test is an evaluation: of verdicts if it is 0 or 1 for every sample, else of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from runner_base import DataError
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    BetterDirection,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    ToolSample,
    check_reported_mean,
    flatten_params,
    get_sample_cluster,
    modification_time,
    require_unique_sample_ids,
)

TOOL = "Evalution"
OF_MODEL = ("revision", "tokenizer_path")
OF_ENGINE = ("dtype", "attn_implementation", "batch_size", "seed")
NOT_SETTINGS = ("generation_submission_mode", "primary_metric")


class Model(msgspec.Struct):
    path: str
    label: str | None = None
    revision: Any = None
    tokenizer_path: Any = None


class Test(msgspec.Struct):
    name: str
    metrics: dict[str, Any]
    samples: list[msgspec.Raw]
    metadata: dict[str, Any] = {}


class RunResult(msgspec.Struct):
    model: Model
    engine: dict[str, Any]
    tests: list[Test]
    versions: dict[str, Any]


class Sample(msgspec.Struct):
    index: int
    prompt: str
    target: str
    prediction: str
    scores: dict[str, float]
    extracted: dict[str, Any] = {}
    metadata: Any = None


RUN_RESULT: Parser[RunResult] = Parser(RunResult)
SAMPLE: Parser[Sample] = Parser(Sample)


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    return outline.has_fields("model", "engine", "tests", "versions")


def read_tool_file(path: Path, file_content: bytes, cluster_field: str | None = None) -> ToolFile:
    """Return the evaluations in a result file, one for each test and score."""
    where = str(path)
    result = RUN_RESULT.parse(file_content, where)
    if not result.tests:
        raise DataError("there is no test in it", key=where, code="empty")
    of_model, engine = result.model, result.engine
    params = {
        "model.name": of_model.label or of_model.path,
        **flatten_params("model_args", {key: getattr(of_model, key) for key in OF_MODEL}),
        **flatten_params("backend", {"name": engine.get("resolved_engine")}),
        **flatten_params("backend", {key: engine.get(key) for key in OF_ENGINE}),
    }
    contents = ToolFile([])
    for test in result.tests:
        samples = [
            SAMPLE.parse(sample, f"{where}, {test.name}, sample {number}")
            for number, sample in enumerate(test.samples, 1)
        ]
        settings = {
            key: value
            for key, value in test.metadata.items()
            if isinstance(value, str | int | float) and key not in NOT_SETTINGS
        }
        for metric in dict.fromkeys(metric for sample in samples for metric in sample.scores):
            numbers = [sample.scores[metric] for sample in samples if metric in sample.scores]
            if len(numbers) < len(samples):
                contents.left_out.append(f"{test.name} {metric}")
                continue
            run = ToolRun(
                TOOL,
                path,
                test.name,
                modification_time(path),
                {**params, **flatten_params("task", settings), "task.name": test.name, METRIC: metric},
                samples=_create_samples(samples, numbers, cluster_field),
                facts={"evalution_version": str(result.versions.get("evalution"))},
                better=None if set(numbers) <= {0, 1} else BetterDirection.neither,
            )
            require_unique_sample_ids(path, run.samples)
            if run.better is None and metric in test.metrics:
                mean = math.fsum(numbers) / len(numbers)
                check_reported_mean(
                    f"{where}: {test.name} {metric}", mean, "samples", "this file", test.metrics[metric]
                )
            contents.runs.append(run)
        if not samples:
            contents.left_out += [f"{test.name} {metric}" for metric in test.metrics]
    return contents


def _create_samples(
    samples: Iterable[Sample], numbers: Iterable[float], cluster_field: str | None
) -> list[ToolSample]:
    return [
        replace(_create_sample(sample, cluster_field), number=number, solved=number == 1)
        for sample, number in zip(samples, numbers, strict=True)
    ]


def _create_sample(sample: Sample, cluster_field: str | None) -> ToolSample:
    answers = [answer for answer in sample.extracted.values() if isinstance(answer, str)]
    family, fields = get_sample_cluster(sample.metadata, cluster_field)
    return ToolSample(
        str(sample.index),
        sample.prompt,
        sample.target,
        False,
        answers[0] if len(answers) == 1 else None,
        sample.prediction[-LONGEST_TEXT:],
        cluster=family,
        fields=fields,
    )
