"""The exit codes of `runner-compare gate` in one table: `python -m tools.gate_situations`.

Each situation writes the results of a baseline and of candidates, as jobs write them, and runs the
command on them. The script ends with 1 if an exit code or a verdict is not the stated one.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner_base import Answer, FinishReason, Record, Result, Sample, Status, Verdict
from runner_compare import main

N, RIGHT = 400, 300
MARGIN = ("--margin", "3")
BASELINE = "baseline.runner.gz"


@dataclass(frozen=True)
class Job:
    """A job of word problems, and how its answers differ from the baseline's."""

    quantization: str
    lost: int = 0  # questions that the baseline solves and this job does not
    won: int = 0
    n: int = N
    right: int = RIGHT
    status: Status = Status.FINISHED
    question: str = "What is {}?"
    prompt: str = ""  # is a part of each prompt
    params: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    name: str = ""
    task: str = "gsm8k"

    @property
    def job_id(self) -> str:
        return self.name or f"{self.task}-{self.quantization}"

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        solved = [number < self.right for number in range(self.n)]
        for number in range(self.lost):
            solved[number] = False
        for number in range(self.won):
            solved[self.right + number] = True
        samples = [self._sample(number, is_right) for number, is_right in enumerate(solved)]
        lines = "".join(f"{sample.to_json()}\n" for sample in samples)
        (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
        metrics = {"correct": float(sum(solved)), "n": float(self.n), "model_mib": 12.5, "seconds": 40.0}
        record = Record(
            self.job_id,
            self.status,
            str(folder),
            Result(metrics | self.metrics, facts=self.facts),
            task=self.task,
            task_version=3,
            params={"model.name": "m", "quantization.name": self.quantization, "task.name": self.task}
            | self.params,
            started_at=f"2026-11-30T10:00:00+00:00 {self.job_id}",
            error="out of memory" if self.status is Status.FAILED else None,
        )
        (folder / "result.json").write_text(record.to_json(), encoding="utf-8")

    def _sample(self, number: int, is_right: bool) -> Sample:
        verdict = Verdict.correct if is_right else Verdict.wrong
        text = f"{number}+0={number}\n#### {number}"
        return Sample(
            answer=Answer(
                text, [number], FinishReason.stop, verdict=verdict, extracted={"strict": str(number)}
            ),
            prompt_sha256=f"{self.prompt}{number:0{64 - len(self.prompt)}x}",
            prompt_tokens=10,
            seconds=0.1,
            index=number,
            question=self.question.format(number),
            gold=str(number),
        )


@dataclass(frozen=True)
class Situation:
    """What a gate finds, and the exit code and verdict that it must end with."""

    name: str
    exit_code: int
    verdict: str  # of the whole; empty: none, because the gate cannot run
    candidates: Sequence[Job]
    arguments: Sequence[str] = MARGIN
    break_baseline: Callable[[Path], object] | None = None
    is_separate: bool = False  # whether each candidate's folder is named


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def change(file: Path) -> None:
    """Change a verdict within a packed job, so that the archive itself is whole."""
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content.replace(b'"verdict": "correct"', b'"verdict": "wrong"  ', 1)))


SAME, WORSE, SLIGHT = Job("int8", 2, 2), Job("fp4", 60, 2), Job("nf4", 20, 14)
SITUATIONS = (
    Situation("as good", 0, "GO", [SAME]),
    Situation("worse by more than the margin", 1, "NO-GO", [WORSE]),
    Situation("undecided", 3, "ASK", [SLIGHT]),
    Situation("one worse, one undecided", 1, "NO-GO", [WORSE, SLIGHT]),
    Situation("one as good, one undecided", 3, "ASK", [SAME, SLIGHT]),
    Situation("an expected candidate is missing", 1, "NO-GO", [SAME], [*MARGIN, "--expect", "int8,nf4"]),
    Situation("all expected candidates are there", 0, "GO", [SAME], [*MARGIN, "--expect", "none,int8"]),
    Situation("a candidate failed", 1, "NO-GO", [SAME, Job("nf4", status=Status.FAILED)]),
    Situation("a candidate was killed", 1, "NO-GO", [SAME, Job("nf4", status=Status.KILLED)]),
    Situation("accuracy below --min", 1, "NO-GO", [SAME], ["--min", "accuracy=0.9"]),
    Situation("accuracy near --min", 3, "ASK", [SAME], ["--min", "accuracy=0.75"]),
    Situation("accuracy above --min", 0, "GO", [SAME], ["--min", "accuracy=0.6"]),
    Situation("memory above --max", 1, "NO-GO", [SAME], [*MARGIN, "--max", "model_mib=10"]),
    Situation("a candidate answered nothing", 1, "NO-GO", [Job("nf4", n=0, right=0)], ["--min", "accuracy=0.1"]),
    Situation("other questions", 2, "ERROR", [Job("nf4", question="What was {}?")]),
    Situation("other prompts", 2, "ERROR", [Job("nf4", prompt="f")]),
    Situation("another way to score", 2, "ERROR", [Job("nf4", params={"task.extractor": "strict"})]),
    Situation("two candidates of one name", 2, "", [SAME, Job("int8", 3, 3, name="gsm8k-again")], is_separate=True),
    Situation("no candidate", 2, "", []),
    Situation("no policy", 2, "", [SAME], []),
    Situation("an unknown metric", 2, "", [SAME], ["--min", "acuracy=0.8"]),
    Situation("the baseline's file is truncated", 2, "", [SAME], MARGIN, truncate),
    Situation("the baseline's file was changed", 2, "", [SAME], MARGIN, change),
    Situation("there is no baseline's file", 2, "", [SAME], MARGIN, Path.unlink),
)  # fmt: skip


def run(situation: Situation, folder: Path) -> tuple[int, str, str]:
    """Return the exit code of the gate in a situation, its verdict, and what it prints on stderr."""
    Job("none", name="gsm8k-base").write(folder / "base")
    for number, job in enumerate(situation.candidates):
        job.write(folder / "jobs" / f"{number}")
    (folder / "jobs").mkdir(exist_ok=True)
    packed = folder / BASELINE
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["pack", str(folder / "base"), "-o", str(packed)]) == 0
        if situation.break_baseline is not None:
            situation.break_baseline(packed)
        places = (
            sorted(map(str, (folder / "jobs").iterdir())) if situation.is_separate else [str(folder / "jobs")]
        )
        out.truncate(0)
        out.seek(0)
        code = main(["gate", str(packed), *places, "--json", *situation.arguments])
    shown = out.getvalue()
    return code, json.loads(shown)["verdict"] if shown else "", err.getvalue()


def print_table() -> int:
    wrong = 0
    print(f"{'situation':<36}{'exit code':>9}  verdict")
    for situation in SITUATIONS:
        with tempfile.TemporaryDirectory() as folder:
            code, verdict, err = run(situation, Path(folder))
        is_right = (code, verdict) == (situation.exit_code, situation.verdict)
        wrong += not is_right
        told = verdict or err.strip().splitlines()[-1].replace(folder + os.sep, "")
        print(f"{situation.name:<36}{code:>9}  {told}{'' if is_right else '   WRONG'}")
    print(f"{len(SITUATIONS)} situations, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(print_table())
