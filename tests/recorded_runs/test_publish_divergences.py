"""--publish of divergences: one table of all formats with the recorded numbers, and commands that
find the very jobs."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner import compare
from runner.recorded_runs.publish_divergences import HEADS, format_divergence_sections
from runner_base.errors import ConfigError
from runner_compare.model.data import Run, Table, TableRow


def cells_of(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_the_table_has_what_was_recorded_and_its_commands_find_the_jobs(
    runner: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ["task=likelihood", "task.reference=quantization=none", "task.limit=60", "tracking=none"]
    done = runner("-m", "quantization=none,nf4", *job, "workers=1", "print=none")
    assert done.code == 0, done.err
    out = str(tmp_path / "outputs")
    code = compare.main(["--output-dir", out, "--publish", str(tmp_path / "card")])
    assert code == 0
    assert [path.name for path in (tmp_path / "card").iterdir()] == ["divergence.md"]
    text = (tmp_path / "card" / "divergence.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| none")] == [], (
        "the reference has no line"
    )
    (command,) = (line.strip() for line in text.splitlines() if line.startswith("    runner "))
    again = runner(*shlex.split(command)[1:], "tracking=none", "print=json")
    assert again.code == 0, again.err
    found = again.json()
    jobs = [folder for folder in (tmp_path / "outputs" / "jobs").iterdir() if folder.is_dir()]
    assert found["job_id"] in {folder.name for folder in jobs}
    assert len(jobs) == 2, "the command names the very job, and ran nothing anew"
    metrics = found["metrics"]
    cells = dict(zip(HEADS, cells_of(text, "nf4"), strict=True))
    assert float(cells["weights, MiB"]) == pytest.approx(metrics["weight_mib"], abs=0.005)
    bits = metrics["weight_mib"] * 2**23 / metrics["parameters"]
    assert float(cells["bits per weight"]) == pytest.approx(bits, abs=0.005)
    mean, low, high = map(float, re.findall(r"[\d.e-]+", cells["mean KLD"].replace("−", "-")))
    recorded = [metrics[f"kl_nats_per_token{end}"] for end in ("", "_low", "_high")]
    assert [mean, low, high] == pytest.approx(recorded, rel=0.01)
    ratio = float(cells["PPL ratio"].split()[0])
    assert ratio == pytest.approx(math.exp(metrics["ln_ppl_ratio"]), abs=6e-5)
    assert (
        "from quantization=none in nats per token, computed over whole distributions. Measured on 60 documents"
        in text
    )

    capsys.readouterr()
    assert compare.main(["--output-dir", out, "--publish", str(tmp_path / "x"), "--benchmark", "a/b:c"]) == 2
    assert "no run has an accuracy to publish" in capsys.readouterr().err


def row_of(name: str, reference: str = "quantization=none", **figures: float) -> TableRow:
    metrics = {
        "n": 200.0,
        "scored_tokens": 6385.0,
        "kl_nats_per_token": 0.0011,
        "kl_p999_nats": 0.25,
    } | figures
    params = {
        "quantization.name": name, "task.name": "likelihood", "model.name": "embedded", "lora.name": "none",
        "rope.name": "native", "generation.name": "greedy", "task.data": "embedded", "task.split": "test",
        "task.reference": reference,
    }  # fmt: skip
    config: dict[str, str | None] = {"quantization.name": name}
    return TableRow(
        Run(name + reference, f"likelihood-{name}", "likelihood", "4", "", params, metrics), config
    )


def test_each_reference_has_a_table_and_bounds_say_so() -> None:
    bounded = row_of("int8", kl_p999_nats_at_most=0.9)
    rows = [
        row_of("nf4", weight_mib=2.0),
        row_of("hqq", weight_mib=3.0),
        row_of("nf4", "model=other"),
        bounded,
    ]
    whole, other, kept = format_divergence_sections(Table("likelihood", ["quantization.name"], rows))
    names = [line.split("|")[1].strip() for line in whole.splitlines() if line.startswith("| ")]
    assert names == ["format", "---", "hqq", "nf4"], "the largest first"
    assert "from model=other" in other
    assert cells_of(kept, "int8")[5] == "0.25 – 0.9"
    assert "only over the reference's stored tokens" in kept
    assert cells_of(kept, "int8")[1:3] == ["–", "–"], "what was not measured is not known"


def test_runs_of_other_tools_and_tables_without_a_divergence() -> None:
    row = row_of("nf4")
    row.run.tool = "lm-eval"
    with raises(ConfigError, "unsupported", "--publish"):
        format_divergence_sections(Table("likelihood", ["quantization.name"], [row]))
    without = row_of("none")
    del without.run.metrics["kl_p999_nats"]
    assert format_divergence_sections(Table("likelihood", ["quantization.name"], [without])) == []
