"""Reader of the speeds of vLLM's perf-eval (`lib/run.sh`): `results/WORKLOAD/bench-SHAPE-conc-N.json`.

These are files of `vllm bench serve`, which do not contain the lengths of the requests. perf-eval writes the
lengths into the name of the file. With `repetitions`, the measurements are in `…-run-N.json`, and the file
without a run has their medians. All repetitions ask one server, so they are repeats of one run. The scores of
BFCL (`bfcl-CATEGORY/results_TIME.json`) have no samples. The reader of lm-eval reads the other evaluations.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import median

import msgspec

from runner_base import DataError, join_first_names
from runner_compare.readers import (
    OBJECT,
    JsonOutline,
    Parser,
    ToolFile,
    ToolRun,
    flatten_params,
    read_bytes,
    validate_file_name,
    vllm_bench,
)

TOOL = "perf-eval"
FILE = re.compile(r"(?P<medians>bench-(?P<shape>.+)-conc-\d+)(?P<run>-run-\d+)?\.json")
OF_MEDIANS = ("aggregation_method", "aggregated_repetitions", "individual_result_files")
BFCL_FIELDS = ("results", "configs", "versions", "n-shot", "config")


class Medians(msgspec.Struct):
    individual_result_files: list[str]


MEDIANS: Parser[Medians] = Parser(Medians)


def can_read_file(path: Path, outline: JsonOutline) -> bool:
    is_benchmark = outline.has_fields(*vllm_bench.KEYS[vllm_bench.SERVE])
    is_named_so = FILE.fullmatch(path.name) is not None
    return (is_benchmark and (is_named_so or outline.has_fields(*OF_MEDIANS))) or _is_bfcl(path, outline)


def _is_bfcl(path: Path, outline: JsonOutline) -> bool:
    is_lm_eval = outline.has_fields("n-samples")
    return path.parent.name.startswith("bfcl-") and outline.has_fields(*BFCL_FIELDS) and not is_lm_eval


def read_tool_file(path: Path, file_content: bytes, _cluster_field: str | None = None) -> ToolFile:
    """Return the run in a perf-eval file. The file with the medians has all repetitions of its run."""
    if _is_bfcl(path, JsonOutline.from_bytes(file_content, str(path))):
        return ToolFile([], [f"{path.parent.name} accuracy"])
    name = FILE.fullmatch(path.name)
    if name is not None and name["run"] and path.with_name(f"{name['medians']}.json").is_file():
        return ToolFile([])
    fields = OBJECT.parse(file_content, str(path))
    if not fields.keys() >= set(OF_MEDIANS):
        run = _read_measurement(path, file_content)
    else:
        run = _read_measurement(
            path, msgspec.json.encode({key: fields[key] for key in fields if key not in OF_MEDIANS})
        )
        _replace_medians_by_repetitions(run, MEDIANS.parse(file_content, str(path)).individual_result_files)
    run.params |= flatten_params(
        "task", {"workload": path.absolute().parent.name, "shape": name["shape"] if name else path.stem}
    )
    return ToolFile([run])


def _read_measurement(path: Path, file_content: bytes) -> ToolRun:
    (run,) = vllm_bench.read_tool_file(path, file_content).runs
    run.tool = TOOL
    return run


def _replace_medians_by_repetitions(run: ToolRun, names: list[str]) -> None:
    """Replace the medians by the values of all repetitions, if the files of the repetitions exist."""
    files = [run.path.with_name(validate_file_name(name, run.path)) for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if len(missing) == len(files):
        return
    if missing:
        raise DataError(
            f"the repetitions {join_first_names(missing, 3)} are not there", key=run.path, code="not_found"
        )
    repetitions = [_read_measurement(file, read_bytes(file)).repeats for file in files]
    for measure, (reported,) in run.repeats.items():
        values = [repetition[measure][0] for repetition in repetitions]
        if not math.isclose(median(values), reported, rel_tol=1e-9):
            raise DataError(
                f"{measure} is {median(values):.6g} in the median of the repetitions, but this file has "
                f"{reported:.6g}. One of the files was changed",
                key=run.path,
                code="mismatch",
            )
        run.repeats[measure] = values
