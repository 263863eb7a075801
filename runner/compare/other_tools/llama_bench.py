"""Reads what `llama-bench -o json` writes: a list of tests, each with the times of its repeats.

Tests that agree in their settings (model, threads, batch, build, machine, …) are one run. Its figures are prompt
processing (`pp512`), generation (`tg128`) and both together, each at a depth of the cache (`d4096`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.compare.lm_eval_keys import text_of
from runner.compare.other_tools.files import field_of, parse, positive
from runner.compare.other_tools.shapes import Outline
from runner.compare.other_tools.tool_run import ToolFile, ToolRun
from runner.core.errors import DataError

TOOL = "llama-bench"
OF_TEST = ("n_prompt", "n_gen", "n_depth", "test_time")
OF_MODEL = ("model_filename", "model_type", "model_size", "model_n_params")
OF_RESULT = ("avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts")
NANOSECONDS = 1e9


def recognises(_path: Path, outline: Outline) -> bool:
    """Whether a file is llama-bench's: a list of tests."""
    needed = {"build_commit", "n_prompt", "n_gen"}
    return bool(outline.elements) and all(needed <= test.keys() for test in outline.elements)


def read(path: Path, raw: bytes, _cluster: str | None = None) -> ToolFile:
    """Return a run for each combination of settings."""
    content = parse(raw, str(path))
    runs: dict[tuple[tuple[str, str], ...], ToolRun] = {}
    for number, test in enumerate(content, 1):
        where = f"{path}, test {number}"
        params = _settings(test, where)
        time = field_of(test, "test_time", str, where)
        machine = " · ".join(filter(None, (str(test.get("cpu_info") or ""), str(test.get("gpu_info") or ""))))
        new = ToolRun(TOOL, path, TOOL, time, params, facts={"machine": machine} if machine else {})
        run = runs.setdefault(tuple(sorted(params.items())), new)
        measure, tokens = _measure(test, where)
        if measure in run.repeats:
            raise DataError(f"{where}: {measure} with the same settings is duplicated")
        times = field_of(test, "samples_ns", list, where)
        if not times:
            raise DataError(f"{where}: samples_ns is empty")
        run.repeats[measure] = [tokens / positive(one, "samples_ns", where) * NANOSECONDS for one in times]
    return ToolFile(list(runs.values()))


def _measure(test: dict[str, Any], where: str) -> tuple[str, int]:
    """Return the name of a test's figure, and the number of tokens that its time is for."""
    prompt, generated = (field_of(test, key, int, where) for key in ("n_prompt", "n_gen"))
    if min(prompt, generated) < 0 or not prompt + generated:
        raise DataError(f"{where}: n_prompt={prompt} and n_gen={generated}: a test has at least one token")
    depth = f"_d{test['n_depth']}" if isinstance(test.get("n_depth"), int) and test["n_depth"] else ""
    if not generated:
        return f"prompt_tok_per_s/pp{prompt}{depth}", prompt
    if not prompt:
        return f"decode_tok_per_s/tg{generated}{depth}", generated
    return f"total_tok_per_s/pp{prompt}_tg{generated}{depth}", prompt + generated


def _settings(test: dict[str, Any], where: str) -> dict[str, str]:
    rest = {key: value for key, value in test.items() if key not in (*OF_TEST, *OF_MODEL, *OF_RESULT)}
    settings = {f"backend.{key}": text_of(value) for key, value in rest.items() if value not in (None, "")}
    return {"model.name": field_of(test, "model_filename", str, where), "backend.name": TOOL, **settings}
