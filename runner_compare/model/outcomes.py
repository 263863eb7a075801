"""What a comparison reads of a run's answers: the outcome of each question, and what a limit of
tokens leaves open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from runner_base import ClusterUnit, Likelihood, Sample
from runner_base.tool_outcomes import ToolOutcome
from runner_compare.model.answer_votes import Votes
from runner_compare.statistics.stats import exact_interval

Question = tuple[int, str, str]  # index, question, gold: two answers form a pair if all three agree


class Bounds(NamedTuple):
    """A run's accuracy if all that was cut off is wrong, or right, and the 95 % interval of that
    without a limit."""

    at_worst: float
    at_best: float
    low: float
    high: float

    @classmethod
    def of(cls, at_worst: float, at_best: float, n: int) -> Bounds:
        """Return the bounds of so many independent questions (earlier versions have recorded too
        narrow ends)."""
        low, high = (exact_interval(round(at_worst * n), n)[0], exact_interval(round(at_best * n), n)[1])
        return cls(at_worst, at_best, low, high)


class RecallPlace(NamedTuple):
    """Where in a text a question asks for something."""

    kind: str  # of question
    length: int  # of the text, in tokens
    # of what is asked for, as a share of the text; None: it is in several places
    depth: float | None
    text: int | None = None  # the haystack, where there are several
    cluster_unit: ClusterUnit = ClusterUnit.question

    @classmethod
    def of(cls, sample: Sample) -> RecallPlace | None:
        """Return the place that a sample of task=recall records; None for other tasks."""
        if sample.recall_kind is None or sample.recall_length is None:
            return None
        return cls(
            sample.recall_kind,
            sample.recall_length,
            sample.recall_depth,
            sample.recall_text,
            sample.recall_cluster_unit or _earlier_cluster_unit(sample),
        )


class ToolPlace(NamedTuple):
    """Where a question with functions belongs, and what came of it."""

    category: str
    length: int  # up to which its context was filled, in tokens; 0: it was not
    outcome: ToolOutcome


class QuestionOutcome(NamedTuple):
    """Whether a run solved a question, the hash of its prompt, and what else a comparison
    counts."""

    solved: bool
    prompt: str | None
    cluster: str | None = None  # the family of questions that it belongs to
    # of several answers to the question: how many are right, and how many there are
    right: tuple[int, int] = (0, 0)
    number: float | None = None  # the value of a metric that is compared instead of the verdict
    cut_off: int = 0  # answers to it that were cut off: they are neither right nor wrong
    votes: Votes | None = None  # how several answers vote, where that is read
    recall: RecallPlace | None = None  # of a question about a long text
    tools: ToolPlace | None = None  # of a question that offers functions

    @classmethod
    def of_number(cls, sample: Sample, number: float | None) -> QuestionOutcome:
        """Return a sample's number, which is compared instead of its verdict."""
        place = RecallPlace.of(sample)
        return cls(False, sample.prompt_sha256, sample.cluster, number=number, recall=place)

    @classmethod
    def of(cls, sample: Sample) -> QuestionOutcome:
        """Return what a sample with a verdict says."""
        tools, cluster = None, sample.cluster
        if sample.tool_category is not None and sample.tool_outcome is not None:
            tools = ToolPlace(sample.tool_category, sample.tool_length or 0, ToolOutcome(sample.tool_outcome))
            if sample.tool_function is None:  # of an earlier version, which knew no families
                cluster = None
        return cls(
            sample.solved,
            sample.prompt_sha256,
            cluster,
            sample.right_answers,
            cut_off=sample.cut_off_answers,
            recall=RecallPlace.of(sample),
            tools=tools,
        )

    def if_cut_off(self, right: bool) -> QuestionOutcome:
        """Return it with all answers that were cut off right, or wrong; of a vote, they decide
        it."""
        if not self.cut_off:
            return self
        share = (self.right[0] + self.cut_off * right, self.right[1]) if self.right[1] else self.right
        return self._replace(solved=right, right=share)

    @property
    def cluster_unit(self) -> ClusterUnit | None:
        """What its cluster is; None without a cluster, and of other tasks than recall."""
        return None if self.recall is None or self.cluster is None else self.recall.cluster_unit

    @property
    def is_clustered_by_text(self) -> bool:
        """Whether its cluster is the haystack."""
        return self.cluster_unit is ClusterUnit.text

    @property
    def samples(self) -> int:
        """How many answers there are."""
        return self.right[1] or 1

    @property
    def mean(self) -> float:
        """The share of right answers: 0 or 1 for a single one."""
        return self.right[0] / self.right[1] if self.right[1] else float(self.solved)


def _earlier_cluster_unit(sample: Sample) -> ClusterUnit:
    """Return the cluster unit of a sample of an earlier version, which records only the cluster's
    name."""
    is_text = sample.recall_text is not None and sample.cluster == f"text {sample.recall_text}"
    return ClusterUnit.text if is_text else ClusterUnit.question


Answers = dict[Question, QuestionOutcome]


@dataclass(frozen=True)
class QuestionCost:
    """What one question cost, whether it was solved, and the share of its answers that are
    right."""

    prompt: int
    new: int
    solved: bool
    cluster: str | None
    failed: bool  # it ended in an error, so its tokens are not those of an answer
    right: float  # of a single answer 0 or 1


Costs = dict[Question, QuestionCost]


class TextScore(NamedTuple):
    """A given text's log-likelihood under a run's model, with the hash of its prompt."""

    text: tuple[str | None, str | None]
    prompt: str | None
    tokens: tuple[int, ...]
    likelihood: Likelihood
    cluster: str | None = None  # the family of texts that it belongs to


Texts = dict[int, TextScore]
