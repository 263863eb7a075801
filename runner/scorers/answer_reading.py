"""Extracts answers with the extractors for numbers and letters, or with the job's scorer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from runner.config.extractors import Extractor
from runner.scorers import letters, numbers
from runner.scorers.base import Scorer
from runner.scorers.expressions import ExpressionScorer
from runner.scorers.extractors import Notation, extract_by_all_extractors
from runner_base import SplitText, plugins

OWN: dict[str, type[Scorer]] = {Extractor.math.value: ExpressionScorer}  # scorers of others are plug-ins


@dataclass(frozen=True)
class ExtractedAnswers:
    """Answers extracted from one text, by name of the extractor or scorer."""

    found: dict[str, str | None]
    # whether the answer stands where one is announced, and so is the last word of a text
    marked: dict[str, bool]
    scorer: Scorer | None = None  # which compares; None: equal answers are equal texts

    def is_right(self, answer: str, gold: str) -> bool:
        return answer == gold if self.scorer is None else self.scorer.is_right(answer, gold)

    def explain_comparison_failure(self, gold: str) -> str:
        if self.scorer is None:
            return ""
        return "".join(
            self.scorer.explain_comparison_failure(answer, gold)
            for answer in self.found.values()
            if answer is not None
        )


@cache
def load_scorer(scorer_name: str) -> Scorer:
    """Return the scorer with this name. Raises ConfigError if a plug-in's scorer cannot be imported."""
    if scorer_name in OWN:
        return OWN[scorer_name]()
    kind: type[Scorer] = plugins.load_plug_in_class("scorer", scorer_name, Scorer)  # type: ignore[type-abstract]
    return kind()


def extract_answers(
    split_text: SplitText, gold: str, is_complete: bool, scorer: str | None = None
) -> ExtractedAnswers:
    """Extract answers from the text after the thinking.

    Uses the scorer, or else the extractors for numbers or letters.
    """
    if scorer is None:
        return _apply_all_extractors(split_text.answer, letters if gold in letters.LETTERS else numbers)
    rule = load_scorer(scorer)
    answer = None
    if not split_text.is_open:
        answer = rule.find(split_text.answer) if is_complete else rule.find_in_truncated(split_text.answer)
    return ExtractedAnswers({scorer: answer}, {scorer: answer is not None}, rule)


def _apply_all_extractors(text: str, notation: Notation) -> ExtractedAnswers:
    found = {
        extractor.value: answer for extractor, answer in extract_by_all_extractors(text, notation).items()
    }
    marked = {name: answer is not None for name, answer in found.items()}
    # `flexible` finds a number in most texts: it is sure to be the answer only where #### marks one
    return ExtractedAnswers(found, marked | {Extractor.flexible.value: marked[Extractor.strict.value]})
