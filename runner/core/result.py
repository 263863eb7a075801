"""What a task gives back and what is kept on disk: Sample, Verdict, Result, Record, repeats. Imports no torch.

repeats.jsonl has one line for each repeat of each measure of a job. `runner-compare` compares these:

    {"measure": "decode_tok_per_s/batch_4_prompt_64", "repeat": 1, "value": 812.5}

A measure is named as the metric that the job reports of it, the median. Warm-up runs are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from runner.core.errors import cannot_write
from runner.core.texts import checked, parse_json, signed

REPEATS = "repeats.jsonl"
CHECKSUM = ', "checksum": "'
GRAPH_PICTURE = "graph.svg"  # of a team of agents: who heard whom
COMPLETIONS = "completions.jsonl"  # what became of each prompt, in their order


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


class Counted:
    """What has tokens, be they known or only counted, as on another machine."""

    token_ids: list[int]
    new_tokens: int | None

    @property
    def tokens(self) -> int:
        """How many it has."""
        return len(self.token_ids) if self.new_tokens is None else self.new_tokens


@dataclass
class BranchText(Counted):
    """How one branch of a prompt went on: what it said after the text that it began with."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    new_tokens: int | None = None  # None: as many as token_ids


@dataclass
class Choice(BranchText):
    """One of several answers to the same prompt, and how it was judged by itself."""

    extracted: dict[str, str | None] | None = None
    verdict: Verdict | None = None


@dataclass
class Call(Counted):
    """One of several completions behind a sample: who was asked for what, and what came back."""

    who: str
    prompt_sha256: str
    prompt_tokens: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    seconds: float
    what: str | None = None
    new_tokens: int | None = None  # None: as many as token_ids
    error: str | None = None
    by: str | None = None  # who gave the answer, where that can be one of several
    calls: list[Call] | None = None  # behind an answer that took more than one itself

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Call:
        """Read a call as it was written; raises ValueError, KeyError or TypeError where it is none."""
        behind = values.get("calls")
        calls = None if behind is None else [cls.from_dict(one) for one in behind]
        return cls(**{**values, "finish_reason": FinishReason(values["finish_reason"]), "calls": calls})


@dataclass
class Likelihood:
    """How likely a given text is to a model: sums over its tokens, in nats (natural logarithms)."""

    unit: int  # what intervals and tests count as one sample: a text with all its windows, a question with its choices
    nats: float  # the log-likelihood
    tokens: int
    bytes: int
    characters: int
    rank_1: int  # tokens that the model would have said itself
    is_other: bool = False  # a choice that is not the right one
    kl_nats: float | None = None  # KL(reference || this); from the reference's most probable tokens, at least
    truncation_nats: float | None = None  # what the other tokens can add to it, at most
    top_1_agreed: int | None = None  # tokens in whose place both models have the same first choice


@dataclass
class Sample:
    """One line of samples.jsonl: a completion and, for scored tasks, how it was judged.

    Where one question took several calls, they stand in `calls`, and above them the answer of the whole: its text, and
    the tokens and seconds of all calls. Where it was to be answered several times, each answer stands in `choices`, and
    above them the one that was elected. A line that ended in an error is no answer: the next start asks again, unless
    the error is permanent, and the later line counts.
    """

    index: int
    prompt_sha256: str
    prompt_tokens: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    seconds: float
    error: str | None = None
    permanent: bool = False  # of an error: asking again cannot turn it into an answer
    question: str | None = None
    gold: str | None = None
    extracted: dict[str, str | None] | None = None  # extractor's name -> the answer it found
    verdict: Verdict | None = None
    likelihood: Likelihood | None = None  # of a text that was given and scored: its tokens are `token_ids`
    branches: list[BranchText] | None = None  # of a prompt with branches: what it says stands here and not above
    choices: list[Choice] | None = None  # of a prompt that was to be answered more than once
    calls: list[Call] | None = None  # of a question that took more than one
    new_tokens: int | None = None  # where the tokens are counted and not known; None: as many as token_ids
    by: str | None = None  # who gave the answer, where that can be one of several
    cost_usd: float | None = None
    reused_from: str | None = None  # the job that it was generated for, where that is another one

    @property
    def failed(self) -> bool:
        """Whether it ended in an error, which is no answer."""
        return self.finish_reason is FinishReason.error

    @property
    def said(self) -> Sequence[BranchText]:
        """Return every answer in it: one per branch or choice, or the one that it is."""
        return (
            self.branches
            or self.choices
            or [BranchText(self.text, self.token_ids, self.finish_reason, self.new_tokens)]
        )

    def to_json(self) -> str:
        """Return the sample as one line of JSON with a checksum over the rest, keys that do not apply left out."""
        return sealed(applying(asdict(self)))

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """Read one line; raises ValueError, KeyError or TypeError when it is not a sample, or not as it was written."""
        values = unsealed(line)
        if not isinstance(values.get("index"), int):
            raise ValueError("no sample: a JSON object with an integer index was expected")
        values["finish_reason"] = FinishReason(values["finish_reason"])
        if "taken_from" in values:  # as earlier versions wrote it
            values["reused_from"] = values.pop("taken_from")
        if values.get("calls") is not None:
            values["calls"] = [Call.from_dict(it) for it in values["calls"]]
        for key, kind in (("branches", BranchText), ("choices", Choice)):
            if values.get(key) is not None:
                said = [kind(**_judged(it)) for it in values[key]]
                values[key] = [replace(it, finish_reason=FinishReason(it.finish_reason)) for it in said]
        if values.get("likelihood") is not None:
            values["likelihood"] = Likelihood(**values["likelihood"])
        values = _judged(values)
        return cls(**values)


def _judged(values: dict[str, Any]) -> dict[str, Any]:
    """Return what was read with its verdict as one of ours, where it has one."""
    return values if values.get("verdict") is None else values | {"verdict": Verdict(values["verdict"])}


def applying(value: Any) -> Any:
    """Return a value without the keys of its objects that do not apply; what an extractor has not found stays."""
    if isinstance(value, list):
        return [applying(it) for it in value]
    if isinstance(value, dict):
        kept = {key: it for key, it in value.items() if it is not None and it is not False}
        return {key: it if key == "extracted" else applying(it) for key, it in kept.items()}
    return value


def sealed(values: Mapping[str, Any]) -> str:
    """Return an object as one line of JSON with a checksum over the rest."""
    line = json.dumps(values, ensure_ascii=False)
    return f"{line[:-1]}{_checksum(line)}"


def unsealed(line: str) -> dict[str, Any]:
    """Read such a line; raises ValueError when it is no JSON object, or not as it was written."""
    values = parse_json(line)
    if not isinstance(values, dict):
        raise ValueError("a JSON object was expected")
    if "checksum" not in values:
        raise ValueError("it has no checksum")
    del values["checksum"]
    content = f"{line.rpartition(CHECKSUM)[0]}}}"
    if line != f"{content[:-1]}{_checksum(content)}":
        raise ValueError("its checksum does not fit: it has been changed since it was written")
    return values


def _checksum(line: str) -> str:
    """Return the end of a line whose other content is this object: its checksum."""
    return f'{CHECKSUM}{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}'


@dataclass
class Result:
    """What a task returns; `metrics` feeds both the printed table and MLflow.

    `rows` is a second table, where one number a job is not enough (a sweep's grid, a memory benchmark's
    stages, a split's parts). `artifacts` are files outside the job folder that the result promises
    (path -> size, digest, state): when one is gone or changed, the job counts as not done.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)  # words about the run: device, dtype, architecture
    notes: list[str] = field(default_factory=list)  # what a reader of the numbers has to know
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    ran_short_mib: float | None = None  # what memory was free when it was too short for a part: more may be later
    text: str | None = None  # the one text that was asked for; it is shown whole, above the table
    problems: list[str] = field(default_factory=list)  # what was found to be wrong: the job has FAILED, and lists it
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # further ones, by their titles
    series: dict[str, list[tuple[int, float]]] = field(
        default_factory=dict
    )  # curves: a step and a value for each point

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
    data: dict[str, str] = field(default_factory=dict)  # what was asked: name, digest, source, for MLflow
    mlflow_run_id: str | None = None  # where it was logged last; the store is asked whether it is still there
    mlflow_uri: str | None = None  # set once everything is logged there
    error: str | None = None
    started_at: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    from_ledger: bool = False  # this answer was recorded earlier

    def to_json(self) -> str:
        """Return what result.json holds."""
        return signed(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read what result.json holds; raises ValueError, KeyError or TypeError when it is no record."""
        values = checked(parse_json(text))
        if not isinstance(values, dict) or not isinstance(values.get("result"), dict):
            raise ValueError("a JSON object with a result was expected")
        kinds = {"metrics": dict, "rows": list, "facts": dict, "notes": list, "artifacts": dict, "problems": list,
                 "tables": dict, "series": dict}  # fmt: skip
        for key, kind in kinds.items():
            if not isinstance(values["result"].get(key, kind()), kind):
                raise ValueError(f"result.{key} is no {kind.__name__}")
        result = Result(**values.pop("result"))
        result.series = {name: [(step, value) for step, value in points] for name, points in result.series.items()}
        return cls(**{**values, "status": Status(values["status"]), "result": result})


class RepeatLog:
    """Writes the repeats of a job, each as soon as it is measured."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / REPEATS
        self._write("", mode="w")  # a job that begins again measures again

    def add(self, repeat: int, values: Mapping[str, float]) -> None:
        """Append what one repeat measured: measure -> value."""
        lines = ({"measure": name, "repeat": repeat, "value": value} for name, value in values.items())
        self._write("".join(sealed(line) + "\n" for line in lines))

    def _write(self, text: str, mode: str = "a") -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def read_repeats(path: Path) -> dict[str, list[float]]:
    """Return the values of each measure; without those of fewer repeats, e.g. of a cell that ran out of memory.

    Raises ValueError, KeyError or TypeError where a line is not a repeat.
    """
    found: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        repeat = unsealed(line) if CHECKSUM in line else parse_json(line)  # earlier versions wrote none
        found.setdefault(repeat["measure"], []).append(float(repeat["value"]))
    most = max(map(len, found.values()), default=0)
    return {measure: values for measure, values in found.items() if len(values) == most}
