"""`runner-compare gate` and `pack`: verdicts, exit codes and files, asserted by their values."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from raising import raises

import runner_compare
from runner_base import ConfigError, JobFailed, Status
from runner_compare import main
from runner_compare.release_gate.verdicts import GateVerdict, find_worst_verdict
from tools.gate_situations import MARGIN, SAME, SITUATIONS, SLIGHT, WORSE, Job, Situation, run

Gate = Callable[..., tuple[int, Any]]


@pytest.fixture
def gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Gate:
    """Return a function that packs a baseline, writes candidates, and returns the gate's exit code and
    report."""
    Job("none", name="gsm8k-base").write(tmp_path / "base")
    assert main(["pack", str(tmp_path / "base"), "-o", str(tmp_path / "base.runner.gz")]) == 0

    def call(candidates: list[Job], *arguments: str, is_json: bool = True) -> tuple[int, Any]:
        for number, job in enumerate(candidates):
            if not (tmp_path / "jobs" / f"{number}").exists():
                job.write(tmp_path / "jobs" / f"{number}")
        capsys.readouterr()
        words = ["gate", str(tmp_path / "base.runner.gz"), str(tmp_path / "jobs"), *arguments]
        code = main([*words, "--json"] if is_json else words)
        out = capsys.readouterr().out
        return code, json.loads(out) if is_json else out

    return call


def verdicts(report: Any) -> dict[str, str]:
    return {candidate["name"]: candidate["verdict"] for candidate in report["candidates"]}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)
def test_the_exit_code_of_each_situation(situation: Situation, tmp_path: Path) -> None:
    assert run(situation, tmp_path)[:2] == (situation.exit_code, situation.verdict)


def test_the_worst_verdict_decides() -> None:
    go, ask, unpaired, no_go = GateVerdict
    assert find_worst_verdict([go, ask, no_go, unpaired]) is no_go
    assert find_worst_verdict([go, ask, unpaired]) is unpaired
    assert find_worst_verdict([go, ask]) is ask
    assert find_worst_verdict([]) is go
    assert [verdict.exit_code for verdict in GateVerdict] == [0, 3, 2, 1]


def test_each_candidate_has_its_verdict_and_what_would_decide(gate: Gate) -> None:
    code, report = gate([SAME, WORSE, SLIGHT], *MARGIN)
    assert (code, report["error"], report["questions"]) == (1, "shared", 400)
    assert verdicts(report) == {"fp4": "NO-GO", "nf4": "ASK", "int8": "GO"}, "those that fail come first"
    worse, asked, good = (candidate["checks"][0] for candidate in report["candidates"])
    assert worse["high"] < -0.03 < good["low"]
    assert asked["low"] < -0.03 < asked["high"]
    assert worse["value"] == pytest.approx(-58 / 400)
    assert asked["further_questions"] > 0
    assert asked["further_s"] == pytest.approx(asked["further_questions"] * 40 / 400)
    assert worse["further_questions"] is None


def test_with_each_a_candidates_verdict_does_not_depend_on_the_others(gate: Gate) -> None:
    near = Job("near", 22, 20)
    many = [near, *(Job(f"other{number}", 24, 20) for number in range(6))]
    _, shared = gate(many, *MARGIN)
    _, each = gate(many, *MARGIN, "--each")
    assert (shared["error"], each["error"]) == ("shared", "each")
    widths = [
        check["high"] - check["low"]
        for report in (shared, each)
        for candidate in report["candidates"]
        if candidate["name"] == "near"
        for check in candidate["checks"]
    ]
    assert widths[1] < widths[0], "one comparison instead of seven"


def test_a_job_without_a_result_is_named_with_its_state(gate: Gate) -> None:
    code, report = gate([SAME, Job("nf4", status=Status.FAILED), Job("fp4", status=Status.KILLED)], *MARGIN)
    assert code == 1
    assert verdicts(report) == {"gsm8k-nf4": "NO-GO", "gsm8k-fp4": "NO-GO", "int8": "GO"}
    assert {check["reason"] for it in report["candidates"] for check in it["checks"]} == {
        "no_result",
        "within",
    }


def test_expected_labels_come_from_a_file_and_may_be_config_values(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("int8\nquantization=none\nnf4\n")
    code, report = gate([SAME], *MARGIN, "--expect", str(tmp_path / "labels.txt"))
    assert (code, verdicts(report)) == (1, {"nf4": "NO-GO", "int8": "GO"})
    assert report["candidates"][0]["checks"][0]["reason"] == "expected"


def test_the_recorded_baseline_among_the_candidates_is_no_candidate(gate: Gate) -> None:
    code, report = gate([SAME, Job("none", name="gsm8k-base")], *MARGIN)
    assert (code, verdicts(report)) == (0, {"int8": "GO"})


def test_another_run_of_the_baselines_settings_is_a_candidate(gate: Gate) -> None:
    """A nightly build has the settings of the baseline, and other answers."""
    code, report = gate([Job("none", 60, 0, name="gsm8k-tonight")], *MARGIN)
    assert code == 1
    assert len(report["candidates"]) == 1


def test_junit_and_a_summary_say_what_the_report_says(gate: Gate, tmp_path: Path) -> None:
    junit, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    summary.write_text("earlier\n")
    gate([SAME, WORSE, SLIGHT], *MARGIN, "--junit", str(junit), "--summary", str(summary))
    suite = ElementTree.fromstring(junit.read_text())
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3", "failures": "1", "errors": "0", "skipped": "1",
    }  # fmt: skip
    found = {case.get("name"): [child.tag for child in case] for case in suite}
    assert found == {"fp4": ["failure"], "nf4": ["skipped"], "int8": []}
    lines = summary.read_text().splitlines()
    assert lines[0] == "earlier", "a summary is appended"
    assert lines[1].startswith("## NO-GO")
    assert [line.split("|")[1].strip(" *") for line in lines[5:]] == ["NO-GO", "ASK", "GO"]


def test_the_default_output_fits_and_begins_with_the_verdict(gate: Gate) -> None:
    _, text = gate([SAME, WORSE, SLIGHT], *MARGIN, is_json=False)
    lines = text.splitlines()
    named = [line.split()[0] for line in lines if line.split()[0] in [*GateVerdict]]
    assert named == ["NO-GO", "NO-GO", "ASK", "GO"]
    assert max(map(len, lines)) <= 100
    _, line = gate([SAME, WORSE, SLIGHT], *MARGIN, "--compact", is_json=False)
    assert line.count("\n") == 1
    assert line.startswith("NO-GO: NO-GO fp4 · ASK nf4 · GO int8")


def test_a_packed_job_is_small_always_the_same_and_has_no_texts(tmp_path: Path) -> None:
    job = Job("none", n=500, right=400)
    job.write(tmp_path / "base")
    files = []
    for name, more in (("a", []), ("b", []), ("c", ["--texts"])):
        file = tmp_path / f"{name}.runner.gz"
        assert main(["pack", str(tmp_path / "base"), "-o", str(file), *more]) == 0
        files.append(file.read_bytes())
    assert files[0] == files[1]
    assert len(files[0]) < 80 * 1024
    contents = []
    for packed in (files[0], files[2]):
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
            contents.append({name: archive.extractfile(name).read().decode() for name in archive.getnames()})  # type: ignore[union-attr]
    slim, full = contents
    assert [*slim] == ["pack.json", "result.json", "samples.jsonl"]
    assert "+0=" not in slim["samples.jsonl"]
    assert "+0=" in full["samples.jsonl"]
    assert str(tmp_path) not in "".join(slim.values()), "nothing of this machine's folders"


@pytest.mark.parametrize(
    ("status", "name"), [(Status.FAILED, "base.runner.gz"), (Status.FINISHED, "base.gz")]
)
def test_what_cannot_be_packed(tmp_path: Path, status: Status, name: str) -> None:
    Job("none", status=status).write(tmp_path / "base")
    assert main(["pack", str(tmp_path / "base"), "-o", str(tmp_path / name)]) == 2
    assert not (tmp_path / name).exists()


def test_a_later_version_of_the_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Job("none").write(tmp_path / "base")
    SAME.write(tmp_path / "jobs" / "0")
    file = tmp_path / "base.runner.gz"
    assert main(["pack", str(tmp_path / "base"), "-o", str(file)]) == 0
    file.write_bytes(
        gzip.compress(gzip.decompress(file.read_bytes()).replace(b'"version": 1', b'"version": 9'))
    )
    capsys.readouterr()
    assert main(["gate", str(file), str(tmp_path / "jobs"), *MARGIN]) == 2
    assert "version 9" in capsys.readouterr().err


def test_the_gate_from_python(gate: Gate, tmp_path: Path) -> None:
    gate([SAME, WORSE, SLIGHT], *MARGIN)
    places = (tmp_path / "base.runner.gz", tmp_path / "jobs")
    result = runner_compare.gate(*places, margin=3, max={"model_mib": 20.0}, expect=["int8"])
    assert (result.verdict, result.exit_code) == (GateVerdict.no_go, 1)
    assert [candidate.name for candidate in result.candidates] == ["fp4", "nf4", "int8"]
    with raises(JobFailed, "refused"):
        result.raise_for_verdict()
    table = result.to_df()
    assert len(table) == 6, "two checks of each"
    assert set(table.verdict) == {"GO", "ASK", "NO-GO"}
    assert result._repr_html_().count("<tr>") == 6
    runner_compare.gate(*places, min={"accuracy": 0.5}, each=True).raise_for_verdict()
    with raises(ConfigError, "missing"):
        runner_compare.gate(*places)


def test_a_killed_job_is_no_go_although_it_has_no_result(gate: Gate, tmp_path: Path) -> None:
    """A job that the kernel killed leaves its folder with a config, and no result.json."""
    killed = tmp_path / "jobs" / "gsm8k-0123456789ab"
    killed.mkdir(parents=True)
    (killed / "config.yaml").write_text("task: {}\n")
    code, report = gate([SAME], *MARGIN)
    assert (code, verdicts(report)) == (1, {"gsm8k-0123456789ab": "NO-GO", "int8": "GO"})
    killed.rename(killed.with_name("likelihood-0123456789ab"))
    assert gate([SAME], *MARGIN)[0] == 0, "a job of another task"


def test_a_margin_of_what_was_not_measured_is_an_error_beside_one_that_holds(gate: Gate) -> None:
    code, report = gate([SAME], *MARGIN, "--margin", "5%")
    assert code == 2
    assert {check["reason"] for check in report["candidates"][0]["checks"]} == {"within", "no_measure"}


def test_a_good_result_hides_no_incomparable_one(gate: Gate) -> None:
    code, report = gate(
        [SAME, Job("int8", n=300, right=200, name="gsm8k-few", params={"task.limit": "300"})], *MARGIN
    )
    assert code == 2
    assert verdicts(report) == {"int8": "ERROR"}


def test_the_label_of_a_candidate_with_the_baselines_settings(gate: Gate) -> None:
    assert gate([Job("none", 1, 1, name="gsm8k-tonight")], *MARGIN, "--expect", "none")[0] == 0


def test_an_empty_folder_lacks_the_expected_candidates(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    code, report = gate([], *MARGIN, "--expect", "int8,nf4")
    assert (code, verdicts(report)) == (1, {"int8": "NO-GO", "nf4": "NO-GO"})


@pytest.mark.parametrize("option", ["--where", "--grid", "--task", "--experiment", "--tracking-uri"])
def test_options_that_select_recorded_jobs_are_refused_beside_files(
    gate: Gate, tmp_path: Path, option: str
) -> None:
    SAME.write(tmp_path / "jobs" / "0")
    assert main(["gate", str(tmp_path / "base.runner.gz"), str(tmp_path / "jobs"), *MARGIN, option, "x"]) == 2


def test_a_gate_that_cannot_run_leaves_no_old_verdict_in_the_files(gate: Gate, tmp_path: Path) -> None:
    junit, summary = tmp_path / "gate.xml", tmp_path / "summary.md"
    files = ("--junit", str(junit), "--summary", str(summary))
    gate([SAME], *MARGIN, *files)
    (tmp_path / "base.runner.gz").write_bytes(b"damaged")
    assert gate([SAME], *MARGIN, *files, is_json=False)[0] == 2
    assert ElementTree.fromstring(junit.read_text()).get("errors") == "1"
    assert summary.read_text().count("## ERROR") == 1


def test_a_job_that_stopped_early_needs_the_recorded_jobs(gate: Gate) -> None:
    """A test of a fixed number of questions does not hold for a job that looked after each one."""
    stopped = Job("nf4", 2, 2, facts={"early_stop_vs": "gsm8k-base"})
    assert gate([stopped], *MARGIN, is_json=False)[0] == 2
