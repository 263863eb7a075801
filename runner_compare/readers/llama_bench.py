"""Reader of `llama-bench -o json` output: a list of tests, each with the times of its repeats.

Tests with equal settings (model, threads, batch, build, machine, …) are one run. Its
metrics are prompt processing (`pp512`), generation (`tg128`) and both together, each at a
depth of the cache (`d4096`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from runner_base import DataError
from runner_compare.readers import Count, JsonOutline, Measured, Parser, ToolFile, ToolRun, to_param_text

TOOL = "llama-bench"
OF_TEST = ("n_prompt", "n_gen", "n_depth", "test_time")
OF_MODEL = ("model_filename", "model_type", "model_size", "model_n_params")
OF_RESULT = ("avg_ns", "stddev_ns", "avg_ts", "stddev_ts", "samples_ns", "samples_ts")
NANOSECONDS = 1e9


class Test(msgspec.Struct):
    """One test of llama-bench. Fields that this class does not declare are settings of the test."""

    model_filename: str
    n_prompt: Count
    n_gen: Count
    test_time: str
    samples_ns: Annotated[list[Measured], msgspec.Meta(min_length=1)]
    n_depth: Count | None = None
    cpu_info: Any = None
    gpu_info: Any = None


TESTS: Parser[list[msgspec.Raw]] = Parser(list[msgspec.Raw])
TEST: Parser[Test] = Parser(Test)
FIELDS: Parser[dict[str, Any]] = Parser(dict[str, Any])


def can_read_file(_path: Path, outline: JsonOutline) -> bool:
    needed = {"build_commit", "n_prompt", "n_gen"}
    return bool(outline.elements) and all(needed <= test.keys() for test in outline.elements)


def read_tool_file(path: Path, file_content: bytes, _cluster_field: str | None = None) -> ToolFile:
    """Return one run per combination of settings in llama-bench output."""
    runs: dict[tuple[tuple[str, str], ...], ToolRun] = {}
    for number, entry in enumerate(TESTS.parse(file_content, str(path)), 1):
        where = f"{path}, test {number}"
        test = TEST.parse(entry, where)
        params = _get_llama_bench_settings(test, FIELDS.parse(entry, where))
        machine = " · ".join(filter(None, (str(test.cpu_info or ""), str(test.gpu_info or ""))))
        new = ToolRun(TOOL, path, TOOL, test.test_time, params, facts={"machine": machine} if machine else {})
        run = runs.setdefault(tuple(sorted(params.items())), new)
        measure, tokens = _get_metric_name_and_tokens(test, where)
        if measure in run.repeats:
            raise DataError(f"two tests with the same settings measure {measure}", key=where, code="damaged")
        run.repeats[measure] = [tokens / time * NANOSECONDS for time in test.samples_ns]
    return ToolFile(list(runs.values()))


def _get_metric_name_and_tokens(test: Test, source: str) -> tuple[str, int]:
    if not test.n_prompt + test.n_gen:
        raise DataError("n_prompt=0 and n_gen=0: a test must process tokens", key=source, code="damaged")
    depth = f"_d{test.n_depth}" if test.n_depth else ""
    if not test.n_gen:
        return f"prompt_tok_per_s/pp{test.n_prompt}{depth}", test.n_prompt
    if not test.n_prompt:
        return f"decode_tok_per_s/tg{test.n_gen}{depth}", test.n_gen
    return f"total_tok_per_s/pp{test.n_prompt}_tg{test.n_gen}{depth}", test.n_prompt + test.n_gen


def _get_llama_bench_settings(test: Test, fields: dict[str, Any]) -> dict[str, str]:
    rest = {key: value for key, value in fields.items() if key not in (*OF_TEST, *OF_MODEL, *OF_RESULT)}
    settings = {
        f"backend.{key}": to_param_text(value) for key, value in rest.items() if value not in (None, "")
    }
    return {"model.name": test.model_filename, "backend.name": TOOL, **settings}
