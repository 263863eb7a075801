"""Result types stored on disk: Response, Sample, Call, Result, Record. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, ClassVar, Self

from runner_base.model_text import RENAMED
from runner_base.model_text import Answer as Answer
from runner_base.model_text import FinishReason as FinishReason
from runner_base.model_text import Verdict as Verdict
from runner_base.renamed_keys import update_renamed_param_keys
from runner_base.signed_jsonl import dump_signed_line, parse_signed_line, remove_unset_keys
from runner_base.texts import format_count, parse_json, to_signed_json, verify_and_remove_checksum

GRAPH = "graph.json"  # of a team of agents: its edges, as they were learned
GRAPH_PICTURE = "graph.svg"  # of a team of agents: who heard whom
COMPLETIONS = "completions.jsonl"  # one line for each prompt, in their order
CALLS = "calls.jsonl"  # of a team of agents
# of the parameters in blocks: what a quantization reaches less is said beside each verdict
NOTED_BELOW = 0.9


class Status(StrEnum):
    """Final state of a job, with MLflow's names."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass
class Response:
    """A model's answer to one request, with its prompt tokens, time and cost.

    In files, the keys of the response and of its answer are in one object.
    """

    # the first keys in files; the others follow as they are defined, the answer's last
    ORDER: ClassVar[str]

    answer: Answer
    prompt_sha256: str
    prompt_tokens: int
    seconds: float
    _: KW_ONLY
    error: str | None = None
    # the error would come again: it is a property of the request and the model
    permanent: bool = False
    # of a prompt with branches: the answers are here and not above
    branches: list[Answer] | None = None
    calls: list[Call] | None = None  # the calls behind the answer, if there were several
    by: str | None = None  # who gave the answer, if several could have
    cost_usd: float | None = None
    # where tokens were guessed at every step: how often the first, the second … token of a guess
    # was looked at, and how often it was right
    guessed: tuple[list[int], list[int]] | None = None

    @classmethod
    def from_response(cls, other: Response, **own: Any) -> Self:
        return cls(**{item.name: getattr(other, item.name) for item in fields(Response)} | own)

    @property
    def failed(self) -> bool:
        """Whether the request ended in an error."""
        return self.answer.finish_reason is FinishReason.error

    def as_dict(self) -> dict[str, Any]:
        """Return the response as a dictionary in file format. Unset keys are included."""
        values = asdict(replace(self, calls=None))  # which have an order of their own
        values |= values.pop("answer")
        if self.calls is not None:
            values["calls"] = [call.as_dict() for call in self.calls]
        return {key: values[key] for key in self.ORDER.split()} | values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Parse a stored response. Raises ValueError, KeyError or TypeError if it is malformed."""
        own = {RENAMED.get(key, key): value for key, value in values.items()}
        answer = {key: own.pop(key) for key in ANSWER_KEYS & own.keys()}
        readers = {"branches": Answer.from_dict, "choices": Answer.from_dict, "calls": Call.from_dict}
        for key in readers.keys() & own.keys():
            own[key] = own[key] and [readers[key](entry) for entry in own[key]]
        return cls(Answer.from_dict(answer), **own)


ANSWER_KEYS = frozenset(item.name for item in fields(Answer))


@dataclass
class Call(Response):
    """One of several model calls for a sample, and the model or agent that answered."""

    ORDER = (
        "who prompt_sha256 prompt_tokens text token_ids finish_reason seconds what new_tokens error by calls thinking "
        "in_thinking"
    )

    who: str
    what: str | None = None


@dataclass
class Likelihood:
    """Log-likelihood of a given text under a model, in nats. Values are sums over tokens."""

    unit: int  # the sample that it belongs to: a text with all its windows, or a question with its choices
    nats: float  # the log-likelihood
    tokens: int
    bytes: int
    characters: int
    rank_1: int  # tokens that are the model's own first choice
    is_other: bool = False  # whether this is a wrong choice of a question
    # KL(reference || this); if the reference has drawn no tokens, a lower bound
    kl_nats: float | None = None
    truncation_nats: float | None = None  # the most that the other tokens can add to it
    # of kl_nats, by the draws of the reference; None: earlier versions drew no tokens
    kl_variance: float | None = None
    # tokens at whose position both models have the same first choice
    top_1_agreed: int | None = None
    # how many tokens stood before it, where the same tokens are scored after several
    context: int | None = None
    # of a text in windows: sums by position (statistics/positions.py)
    by_position: list[list[float]] | None = None
    # of a recorded answer: sums by generated position (statistics/answer_positions.py)
    by_answer_position: list[list[float]] | None = None


class ClusterUnit(StrEnum):
    """Part that all questions of a task=recall cluster share: the haystack, or the content asked for."""

    text = "text"  # the haystack
    question = "question"  # what is asked, at several lengths or depths


@dataclass
class Sample(Response):
    """One line of samples.jsonl: a completion and, in scored tasks, its verdict.

    If a question took several calls, `calls` has them, and the sample has the final answer with
    the tokens and seconds of all calls. If it was answered several times, `choices` has each
    answer, and the sample has the elected one. A line that ended in an error is no answer: the
    next start asks the question again, unless the error is permanent, and the later line
    counts.
    """

    ORDER = (
        "index prompt_sha256 prompt_tokens text token_ids finish_reason seconds error permanent question gold cluster "
        "category extracted verdict likelihood choice_likelihoods branches choices calls new_tokens by cost_usd "
        "reused_from left_out"
    )

    index: int
    question: str | None = None
    gold: str | None = None
    cluster: str | None = None  # the family of questions that it belongs to, by task.cluster
    category: str | None = None  # the kind of text that was scored
    # of a given text that was scored: its tokens are the answer's
    likelihood: Likelihood | None = None
    choice_likelihoods: list[Likelihood] | None = None  # of a question whose given choices were scored
    choices: list[Answer] | None = None  # of a prompt that was answered more than once
    reused_from: str | None = None  # the other job that it was generated for
    left_out: bool = False  # asked, and not counted in the score (task.unscored)
    tool_category: str | None = None  # of task=tools: what kind of calls is wanted
    tool_length: int | None = (
        None  # the tokens up to which its context was filled with other functions; 0: it was not
    )
    tool_outcome: str | None = None  # what came of it (runner_base/tool_outcomes.py)
    # the function that its question is about: the first wanted one, else the first offered one
    tool_function: str | None = None
    recall_kind: str | None = None  # of task=recall: what was hidden in the text
    recall_length: int | None = None  # the tokens of the whole context, as asked for
    # where the asked needle stands: 0 is the beginning, 1 the end
    recall_depth: float | None = None
    # cases with the same number, kind and depth have the same needles at other lengths
    recall_case: int | None = None
    recall_text: int | None = None  # the haystack, where there are several
    # what its cluster is; None in records of earlier versions
    recall_cluster_unit: ClusterUnit | None = None

    @property
    def is_scored(self) -> bool:
        """Whether given texts were scored, so that nothing was generated."""
        return self.likelihood is not None or self.choice_likelihoods is not None

    @property
    def answers(self) -> Sequence[Answer]:
        """All answers to the question: one per branch or per choice, otherwise the single answer."""
        return self.branches or self.choices or [self.answer]

    @property
    def solved(self) -> bool:
        """Whether the answer is correct. With several answers, whether the majority answer is correct."""
        return self.answer.verdict is Verdict.correct

    def accuracy(self, count_truncated_as_correct: bool = False) -> float:
        """Return the fraction of correct answers.

        `count_truncated_as_correct` counts answers that were cut off as correct.
        """
        right, answers = self.count_correct_answers
        if not answers:
            return float(self.solved or (count_truncated_as_correct and self.num_cut_off_answers > 0))
        return (right + self.num_cut_off_answers * count_truncated_as_correct) / answers

    @property
    def num_cut_off_answers(self) -> int:
        """Number of answers that a token limit cut off before the final answer."""
        return sum(
            choice.verdict is Verdict.cut_off and choice.finish_reason is not FinishReason.error
            for choice in self.choices or [self.answer]
        )

    @property
    def count_correct_answers(self) -> tuple[int, int]:
        """Number of correct answers and of all answers. (0, 0) if there is only one answer."""
        verdicts = [choice.verdict for choice in self.choices or []]
        return (0, 0) if None in verdicts else (verdicts.count(Verdict.correct), len(verdicts))

    def to_json(self) -> str:
        """Return the sample as one JSON line with a checksum and without unset keys."""
        return dump_signed_line(remove_unset_keys(self.as_dict()))

    @classmethod
    def from_json(cls, line: str) -> Sample:
        """Parse a line of samples.jsonl. Raises ValueError, KeyError or TypeError if malformed or
        changed.
        """
        values = parse_signed_line(line)
        if not isinstance(values.get("index"), int):
            raise ValueError("the line must be a JSON object with an integer index")
        if values.get("likelihood") is not None:
            values["likelihood"] = Likelihood(**values["likelihood"])
        if values.get("choice_likelihoods") is not None:
            values["choice_likelihoods"] = [Likelihood(**each) for each in values["choice_likelihoods"]]
        if values.get("recall_cluster_unit") is not None:
            values["recall_cluster_unit"] = ClusterUnit(values["recall_cluster_unit"])
        return cls.from_dict(values)


@dataclass
class Result:
    """Result of a task. `metrics` is shown in the printed table and logged to MLflow.

    `rows` is a second table, for results of more than one number (a sweep's grid, a memory
    benchmark's stages, a split's parts). `artifacts` are result files outside the job folder
    (path -> size, digest, state): if one is missing or changed, the job counts as not done.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]] = field(default_factory=list)
    # words about the run: device, dtype, architecture
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what a reader of the numbers has to know
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    # the free memory, if it was too little for a part; a later run may have more
    ran_short_mib: float | None = None
    text: str | None = None  # the only completion of the job; it is shown in full, above the table
    # what the task found to be wrong; the job has then FAILED
    problems: list[str] = field(default_factory=list)
    # further tables, by their titles
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    # curves: a step and a value for each point
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def found_problems_message(self) -> str | None:
        count = len(self.problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        return f"{format_count(count, 'problem')} found:{lines}" if count else None


@dataclass
class Record:
    """Content of result.json: a job, its config, its status and its result."""

    job_id: str
    status: Status
    output_dir: str
    result: Result
    task: str = ""
    task_version: int = 0
    name: str = ""  # for people
    # every resolved key of the config, as text
    params: dict[str, str] = field(default_factory=dict)
    # what was asked: name, digest, source, for MLflow
    data: dict[str, str] = field(default_factory=dict)
    # what was loaded: name, digest, params, for MLflow
    model: dict[str, Any] = field(default_factory=dict)
    mlflow_run_id: str | None = None  # where it was logged last; it may have been deleted there
    mlflow_uri: str | None = None  # set once everything is logged there
    error: str | None = None
    started_at: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    from_ledger: bool = False  # whether the result was recorded earlier

    def to_json(self) -> str:
        """Return the content of result.json."""
        return to_signed_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Parse result.json. Raises ValueError, KeyError or TypeError if it is malformed."""
        values = verify_and_remove_checksum(parse_json(text))
        if not isinstance(values, dict) or not isinstance(values.get("result"), dict):
            raise ValueError("the file must contain a JSON object with a result")
        kinds = {"metrics": dict, "rows": list, "facts": dict, "notes": list, "artifacts": dict, "problems": list,
                 "tables": dict, "series": dict}  # fmt: skip
        for key, kind in kinds.items():
            if not isinstance(values["result"].get(key, kind()), kind):
                raise ValueError(f"result.{key} is not a {kind.__name__}")
        result = Result(**values.pop("result"))
        result.series = {
            name: [(step, value) for step, value in points] for name, points in result.series.items()
        }
        if isinstance(params := values.get("params"), dict):
            values["params"] = update_renamed_param_keys(params)
        return cls(**{**values, "status": Status(values["status"]), "result": result})
