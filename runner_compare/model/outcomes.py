"""Outcome of each question of a run, and bounds of the accuracy if answers were cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from runner_base import ClusterUnit, Likelihood, Sample
from runner_base.tool_outcomes import ToolOutcome
from runner_compare.model.repeated_answers import AnswerVotes
from runner_compare.statistics.stats import compute_clopper_pearson_interval

Question = tuple[int, str, str]  # index, question, gold: two answers form a pair if all three agree


class AccuracyBounds(NamedTuple):
    """Lowest and highest possible accuracy if answers were cut off, with a 95 % interval around both."""

    at_worst: float
    at_best: float
    low: float
    high: float

    @classmethod
    def from_independent_questions(
        cls, accuracy_at_worst: float, accuracy_at_best: float, n: int
    ) -> AccuracyBounds:
        """Compute the bounds for n independent questions.

        The interval is recomputed, since earlier versions recorded too narrow ends.
        """
        low, high = (
            compute_clopper_pearson_interval(round(accuracy_at_worst * n), n)[0],
            compute_clopper_pearson_interval(round(accuracy_at_best * n), n)[1],
        )
        return cls(accuracy_at_worst, accuracy_at_best, low, high)


class RecallPosition(NamedTuple):
    """Position in a long text that a task=recall question asks about."""

    kind: str  # of question
    length: int  # of the text, in tokens
    # of what is asked for, as a share of the text; None: it is in several places
    depth: float | None
    text: int | None = None  # the haystack, where there are several
    cluster_unit: ClusterUnit = ClusterUnit.question

    @classmethod
    def from_sample(cls, sample: Sample) -> RecallPosition | None:
        """Return the position that a task=recall sample records. None for samples of other tasks."""
        if sample.recall_kind is None or sample.recall_length is None:
            return None
        return cls(
            sample.recall_kind,
            sample.recall_length,
            sample.recall_depth,
            sample.recall_text,
            sample.recall_cluster_unit or _infer_cluster_unit(sample),
        )


class ToolCase(NamedTuple):
    """Category, context length and tool-call outcome of a question that offers tools."""

    category: str
    length: int  # up to which its context was filled, in tokens; 0: it was not
    outcome: ToolOutcome


class QuestionOutcome(NamedTuple):
    """Outcome of one question: its verdict, the hash of its prompt, and the numbers of answers."""

    solved: bool
    prompt: str | None
    cluster: str | None = None  # the family of questions that it belongs to
    # of several answers to the question: how many are right, and how many there are
    right: tuple[int, int] = (0, 0)
    number: float | None = None  # the value of a metric that is compared instead of the verdict
    cut_off: int = 0  # answers to it that were cut off: they are neither right nor wrong
    votes: AnswerVotes | None = None  # how several answers vote, where that is read
    recall: RecallPosition | None = None  # of a question about a long text
    tools: ToolCase | None = None  # of a question that offers functions

    @classmethod
    def from_metric(cls, sample: Sample, metric_value: float | None) -> QuestionOutcome:
        """Create an outcome from the value of a metric per question, which replaces the verdict."""
        place = RecallPosition.from_sample(sample)
        return cls(False, sample.prompt_sha256, sample.cluster, number=metric_value, recall=place)

    @classmethod
    def from_sample(cls, sample: Sample) -> QuestionOutcome:
        tools, cluster = None, sample.cluster
        if sample.tool_category is not None and sample.tool_outcome is not None:
            tools = ToolCase(sample.tool_category, sample.tool_length or 0, ToolOutcome(sample.tool_outcome))
            if sample.tool_function is None:  # of an earlier version, which knew no families
                cluster = None
        return cls(
            sample.solved,
            sample.prompt_sha256,
            cluster,
            sample.count_correct_answers,
            cut_off=sample.num_cut_off_answers,
            recall=RecallPosition.from_sample(sample),
            tools=tools,
        )

    def treat_cut_off_answers_as(self, is_correct: bool) -> QuestionOutcome:
        """Return a copy in which all cut-off answers count as correct, or all as wrong.

        For a vote, they decide it.
        """
        if not self.cut_off:
            return self
        share = (self.right[0] + self.cut_off * is_correct, self.right[1]) if self.right[1] else self.right
        return self._replace(solved=is_correct, right=share)

    @property
    def cluster_unit(self) -> ClusterUnit | None:
        """Part that the questions of a task=recall cluster share. None for other questions."""
        return None if self.recall is None or self.cluster is None else self.recall.cluster_unit

    @property
    def is_clustered_by_text(self) -> bool:
        """Whether the cluster consists of the questions about the same haystack text."""
        return self.cluster_unit is ClusterUnit.text

    @property
    def num_answers(self) -> int:
        return self.right[1] or 1

    @property
    def accuracy(self) -> float:
        """Fraction of correct answers: 0 or 1 for a single answer."""
        return self.right[0] / self.right[1] if self.right[1] else float(self.solved)


def _infer_cluster_unit(sample: Sample) -> ClusterUnit:
    """Infer the cluster unit of a sample that an earlier version stored without it."""
    is_text = sample.recall_text is not None and sample.cluster == f"text {sample.recall_text}"
    return ClusterUnit.text if is_text else ClusterUnit.question


Answers = dict[Question, QuestionOutcome]


@dataclass(frozen=True)
class QuestionCost:
    """Tokens, verdict and accuracy of one question."""

    prompt: int
    new: int
    solved: bool
    cluster: str | None
    failed: bool  # it ended in an error, so its tokens are not those of an answer
    right: float  # of a single answer 0 or 1


Costs = dict[Question, QuestionCost]


class TextScore(NamedTuple):
    """Log-likelihood of one document under a run's model, with the hash of its prompt."""

    text: tuple[str | None, str | None]
    prompt: str | None
    tokens: tuple[int, ...]
    likelihood: Likelihood
    cluster: str | None = None  # the family of texts that it belongs to

    @classmethod
    def from_sample(cls, sample: Sample) -> TextScore | None:
        """Return the score that a task=likelihood sample records. None for samples of other tasks."""
        if sample.likelihood is None:
            return None
        return cls(
            (sample.question, sample.gold),
            sample.prompt_sha256,
            tuple(sample.answer.token_ids),
            sample.likelihood,
            sample.cluster,
        )


Texts = dict[int, TextScore]
