"""Whatever a log of another tool holds: the comparison, or one message that names the file, and
never a traceback."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from changed_logs import change_content, change_file, damage, written
from other_logs import DATA, INSPECT, members_of, rewrite_rows

TOOLS = {  # by name: a log that stays as it is, and the files of it that are changed
    "inspect_ai": INSPECT / "none",
    "inspect_ai epochs": INSPECT / "epochs",
    "inspect_ai json": INSPECT / "as_json",
    "lighteval": DATA / "lighteval" / "whole",
    "lm_eval": DATA / "lm_eval" / "hf",
    "evalscope": DATA / "evalscope" / "none",
    "olmo_eval": DATA / "olmo_eval" / "none",
    "evalplus": DATA / "evalplus",
    "llama_eval": DATA / "llama_eval",
    "nemo_evaluator": DATA / "nemo_evaluator" / "none",
    "evalution": DATA / "evalution",
    "perf_eval": DATA / "perf_eval",
    "llama_bench": DATA / "llama_bench",
    "vllm serve": DATA / "vllm" / "at_once",
    "vllm": DATA / "vllm",
    "guidellm": DATA / "guidellm",
    "aiperf": DATA / "aiperf",
}
UNCHANGED = {
    "evalplus": "none_eval_results.json",
    "llama_eval": "none.json",
    "evalution": "none.json",
    "guidellm": "guidellm_1.json",
}
FEW, MANY, AT_ONCE = 20, 520, 65


def change_archive(path: Path, rng: random.Random) -> str:
    if rng.random() < 0.15:
        changed, what = damage(path.read_bytes(), rng)
        path.write_bytes(changed)
        return what
    members: dict[str, Any] = members_of(path)
    names = list(members)
    name = "header.json" if rng.random() < 0.4 else rng.choice(names)
    holder = [members[name]]
    what = change_content(holder if rng.random() < 0.05 else holder[0], rng)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in names:
            content = (holder[0] if holder else None) if member == name else members[member]
            archive.writestr(member, written(content))
    return f"{name}: {what}"


def change_rows(path: Path, rng: random.Random) -> str:
    """Change a row of a parquet file; not every change can be written as one."""
    found, raw = list[str](), path.read_bytes()
    try:
        rewrite_rows(path, lambda rows: found.append(change_content(rows, rng)))
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError, UnicodeError, AttributeError):
        path.write_bytes(raw)
        return change_file(path, rng)
    return f"{path.name}: {found[0]}"


def change_log(folder: Path, rng: random.Random) -> str:
    """Change a file of a log."""
    path = rng.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    if path.suffix == ".eval":
        return change_archive(path, rng)
    if path.suffix == ".parquet":
        return change_rows(path, rng)
    return change_file(path, rng)


def assert_read_or_refused(run: Any, tmp_path: Path, tool: str, seeds: range) -> None:
    source = TOOLS[tool]
    kept = source / UNCHANGED.get(tool, "")
    for seed in seeds:
        folder = tmp_path / f"{seed}"
        shutil.copytree(source, folder)
        what = change_log(folder, random.Random(f"{tool} {seed}"))
        try:
            places = (kept, folder) if seed % 2 else (folder, kept)
            code, out, err = run(*places, "--format", "json")
        except Exception as error:
            raise AssertionError(f"{tool}, seed {seed}: {what}") from error
        shown = f"{tool}, seed {seed}: {what}: exit {code}: {err[-1500:]}"
        assert code in (0, 2), shown
        assert "Traceback" not in err, shown
        if code == 0:
            json.loads(out)
        else:
            messages = [line for line in err.splitlines() if line.startswith("runner-compare: ")]
            assert len(messages) == 1, shown
            assert str(folder) in " ".join(err.split()), shown
            assert not out, shown
        shutil.rmtree(folder)


@pytest.mark.sampled(9)
@pytest.mark.parametrize("tool", TOOLS)
def test_a_changed_log_is_read_or_refused(run: Any, tmp_path: Path, tool: str) -> None:
    assert_read_or_refused(run, tmp_path, tool, range(FEW))


@pytest.mark.thorough
@pytest.mark.parametrize("begin", range(FEW, FEW + MANY, AT_ONCE))
@pytest.mark.parametrize("tool", TOOLS)
def test_many_changed_logs_are_read_or_refused(run: Any, tmp_path: Path, tool: str, begin: int) -> None:
    assert_read_or_refused(run, tmp_path, tool, range(begin, begin + AT_ONCE))
