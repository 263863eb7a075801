"""The study which_file from end to end: a folder of .gguf files in, one table out."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from json_schema import SCHEMA, faults

from tools import embedded_gguf

pytestmark = [
    pytest.mark.slow,
    # the names leave no room
    pytest.mark.filterwarnings("error:constrained_layout not applied:UserWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
STUDY = ("-cd", str(Path(__file__).parents[1] / "experiments"), "-cn", "which_file")
SMALL = ("task.limit=60", "task.repeats=1", "task.new_tokens=4", "hydra.launcher.fresh=false", "print=none")


@pytest.mark.thorough
def test_a_folder_of_files_in_one_table_out(runner: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    (folder / "other").mkdir(parents=True)
    for name in ("F16", "Q8_0", "Q4_1"):
        embedded_gguf.write(folder / f"{name}.gguf", name)
    embedded_gguf.write(folder / "other" / "Q8_0.gguf", "Q4_0")
    shutil.copy(folder / "Q4_1.gguf", folder / "copy.gguf")
    (folder / "broken.gguf").write_bytes((folder / "Q8_0.gguf").read_bytes()[:5000])

    ended = runner(*STUDY, f"files={folder}", *SMALL)
    assert ended.code == 2, ended.err  # as for any file that is damaged
    assert f"reference: {folder}/F16.gguf" in ended.err
    assert f"cannot be read: {folder}/broken.gguf: " in ended.err
    assert "3 of 18 jobs did not finish" in ended.err
    assert ended.err.count("impossible: model.name=broken.gguf") == 3

    shown = runner("--grid", "last", "--files", module="runner_compare")
    assert shown.code == 0, shown.err
    lines = {line.split()[0]: line for line in shown.out.splitlines() if line[:1] not in (" ", "")}
    assert "F16.gguf (reference)" in shown.out
    assert {"Q8_0.gguf", "other/Q8_0.gguf"} <= lines.keys(), shown.out
    assert ("copy.gguf" in lines) != ("Q4_1.gguf" in lines), "one content is one file"
    assert "(no speed" not in shown.out

    written = runner("--grid", "last", "--files", "--format", "json", module="runner_compare")
    whole = json.loads(written.out)
    assert list(faults(whole, SCHEMA)) == []
    files = {it["file"]: it for it in whole["files"]}
    assert len(files) == 4
    assert files["F16.gguf"]["is_reference"]
    assert files["Q8_0.gguf"]["kl_rank"] == [1, 1], files
    assert files["Q8_0.gguf"]["on_front"]
    for it in files.values():
        assert set(it["jobs"]) == {"speed", "accuracy", "log-likelihood"}
        assert set(it["decode_tok_per_s"]) == {"1", "32"}
        assert it["costs"]["file_mib"] > 1
    assert files["Q8_0.gguf"]["kl_nats_per_token_high"] < files["other/Q8_0.gguf"]["kl_nats_per_token_low"]

    as_csv = runner("--grid", "last", "--files", "--format", "csv", module="runner_compare").out
    assert len(list(csv.DictReader(io.StringIO(as_csv)))) == 4
    saved = tmp_path / "saved"
    assert runner("--grid", "last", "--files", "--save", str(saved), module="runner_compare").code == 0
    assert {"files.png", "files.svg", "comparison.md"} <= {path.name for path in saved.iterdir()}
    assert "<h2>model files</h2>" in (saved / "comparison.html").read_text()
    again = runner(*STUDY, f"files={folder}", *SMALL)
    assert "15 done" in again.err, again.err


@pytest.mark.parametrize("option", ["--flips a b", "--by seed", "--pool", "--lm-eval out"])
def test_options_that_a_table_of_files_has_no_place_for(option: str, runner: Callable[..., Any]) -> None:
    ended = runner("--files", *option.split(), module="runner_compare")
    assert ended.code == 2
    assert f"--files has a line for each model file: leave out {option.split()[0]}" in ended.err
