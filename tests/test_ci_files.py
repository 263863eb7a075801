"""The shell steps of ci/ run as they stand, and end as the gate ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner_compare import main
from tools.gate_situations import SAME, SLIGHT, WORSE, Job

CI = Path(__file__).parents[1] / "ci"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Job("none", name="gsm8k-base").write(tmp_path / "base")
    assert main(["pack", str(tmp_path / "base"), "-o", str(tmp_path / "baseline.runner.gz")]) == 0
    return tmp_path


def run_script(script: str, folder: Path, variables: dict[str, str]) -> int:
    """Run a script with the commands of this environment, in a folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, env={**os.environ, "PATH": path, **variables}, check=False
    )
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidate", "inputs", "code", "verdict"),
    [
        (SAME, {}, 0, "GO"),
        (WORSE, {}, 1, "NO-GO"),
        (SLIGHT, {}, 3, "ASK"),
        (SLIGHT, {"undecided": "pass"}, 0, "ASK"),
        (SAME, {"expect": "int8,nf4"}, 1, "NO-GO"),
        (SAME, {"margin": "no number"}, 2, "ERROR"),
        (SAME, {"margin": "", "policy": "policy.yaml"}, 0, "GO"),
        (WORSE, {"margin": "", "policy": "policy.yaml"}, 1, "NO-GO"),
    ],
    ids=lambda value: getattr(value, "quantization", None),
)
def test_the_github_action(
    folder: Path, candidate: Job, inputs: dict[str, str], code: int, verdict: str
) -> None:
    candidate.write(folder / "outputs" / "0")
    (folder / "policy.yaml").write_text("must: [{margin: 3}]\n")
    action: dict[str, Any] = yaml.safe_load((CI / "action.yml").read_text())
    given = {key: value.get("default", "") for key, value in action["inputs"].items()}
    given |= {"baseline": "baseline.runner.gz", "margin": "3"} | inputs
    (step,) = action["runs"]["steps"]
    env = {
        name: given[text.removeprefix("${{ inputs.").removesuffix(" }}")]
        for name, text in step["env"].items()
    }
    env |= {name: str(folder / name) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    assert run_script(step["run"], folder, env) == code
    assert (folder / "GITHUB_OUTPUT").read_text() == f"verdict={verdict}\n"
    if code != 2:
        assert (folder / "GITHUB_STEP_SUMMARY").read_text().startswith(f"## {verdict}")
        assert (folder / "gate.xml").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("requirements", ["--margin 3", "--policy policy.yaml"])
@pytest.mark.parametrize(("candidate", "code"), [(SAME, 0), (WORSE, 1), (SLIGHT, 3)])
def test_the_gitlab_job(folder: Path, candidate: Job, code: int, requirements: str) -> None:
    candidate.write(folder / "outputs" / "0")
    (folder / "policy.yaml").write_text("must: [{margin: 3}]\n")
    job = yaml.safe_load((CI / "gitlab.yml").read_text())["gate"]
    variables = {**job["variables"], "REQUIREMENTS": requirements}
    assert run_script("\n".join(job["script"]), folder, variables) == code
    assert code in (0, 1, job["allow_failure"]["exit_codes"])
    for name in ("gate.xml", *job["artifacts"]["paths"]):
        assert (folder / name).is_file()
