"""What a task gives back and what is kept on disk: Sample, Verdict, Result, Record. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar


class FinishReason(StrEnum):
    """Why a completion ended: its own end or a stop string, the token limit, an error, or who asked had enough."""

    stop = "stop"
    length = "length"
    error = "error"
    cancelled = "cancelled"


class Verdict(StrEnum):
    """Four ways for an answer to come out: only the first one scores."""

    correct = "correct"
    wrong = "wrong"
    no_answer = "no_answer"
    cut_off = "cut_off"


class Status(StrEnum):
    """How a job ended, in MLflow's words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass
class BranchText:
    """How one branch of a prompt went on: what it said after the text that it began with."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason


@dataclass
class Call:
    """One of several completions behind a sample: who was asked, and what came back."""

    who: str
    prompt_sha256: str
    prompt_tokens: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    seconds: float


@dataclass
class Sample:
    """One line of samples.jsonl: a completion and, for scored tasks, how it was judged.

    Where one question took several calls of a model, they stand in `calls`, and above them the answer of the whole: its
    text, the prompt tokens and the seconds of all calls.
    """

    index: int
    prompt_sha256: str
    prompt_tokens: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    seconds: float
    error: str | None = None
    question: str | None = None
    gold: str | None = None
    extracted: dict[str, str | None] | None = None  # extractor's name -> the answer it found
    verdict: Verdict | None = None
    branches: list[BranchText] | None = None  # of a prompt with branches: what it says stands here and not above
    calls: list[Call] | None = None  # of a question that took more than one

    @property
    def said(self) -> list[BranchText]:
        """Return every completion in it: one per branch, one per call, or the one that it is."""
        calls = [BranchText(call.text, call.token_ids, call.finish_reason) for call in self.calls or []]
        return self.branches or calls or [BranchText(self.text, self.token_ids, self.finish_reason)]

    def to_json(self) -> str:
        """Return the sample as one line of JSON, keys that do not apply left out."""
        optional = ("error", "question", "gold", "extracted", "verdict", "branches", "calls")
        values = {key: value for key, value in asdict(self).items() if key not in optional or value is not None}
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """Read one line; raises ValueError, KeyError or TypeError when it is not a sample."""
        values = json.loads(line)
        if not isinstance(values, dict) or not isinstance(values.get("index"), int):
            raise ValueError("no sample: a JSON object with an integer index was expected")
        values["finish_reason"] = FinishReason(values["finish_reason"])
        if values.get("verdict") is not None:
            values["verdict"] = Verdict(values["verdict"])
        if values.get("branches") is not None:
            values["branches"] = [_with_reason(BranchText(**branch)) for branch in values["branches"]]
        if values.get("calls") is not None:
            values["calls"] = [_with_reason(Call(**call)) for call in values["calls"]]
        return cls(**values)


Said = TypeVar("Said", BranchText, Call)


def _with_reason(said: Said) -> Said:
    """Turn the finish reason that was read as text into the enum's member."""
    return replace(said, finish_reason=FinishReason(said.finish_reason))


@dataclass
class Result:
    """What a task returns; `metrics` feeds both the printed table and MLflow.

    `rows` is a second table, where one number a job is not enough (a sweep's grid, a memory benchmark's
    stages, a split's parts). `artifacts` are files or folders outside the job folder that the result promises:
    when one is gone, the job counts as not done.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)  # words about the run: device, dtype, architecture
    notes: list[str] = field(default_factory=list)  # what a reader of the numbers has to know
    artifacts: list[str] = field(default_factory=list)
    text: str | None = None  # the one text that was asked for; it is shown whole, above the table
    problems: list[str] = field(default_factory=list)  # what was found to be wrong: the job has FAILED, and lists it

    @property
    def complaint(self) -> str | None:
        """The problems as one message."""
        count = len(self.problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{count} problem{'s' * (count > 1)} found:{lines}" if count else None


@dataclass
class Record:
    """result.json: a result with its job, status and whereabouts."""

    job_id: str
    status: Status
    output_dir: str
    result: Result
    task: str = ""
    task_version: int = 0
    name: str = ""  # for people
    params: dict[str, str] = field(default_factory=dict)  # every resolved key of the config, as text
    mlflow_run_id: str | None = None
    mlflow_uri: str | None = None  # set once everything is logged there
    error: str | None = None
    started_at: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    from_ledger: bool = False  # this answer was recorded earlier

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data for result.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """Read what to_dict wrote."""
        result = Result(**values.pop("result"))
        return cls(**{**values, "status": Status(values["status"]), "result": result})
