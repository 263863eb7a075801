"""Extracts answers from a text: numbers and letters by every extractor, other answers by the job's
scorer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from runner.config.extractors import Extractor
from runner.scorers import letters, numbers
from runner.scorers.base import Scorer
from runner.scorers.expressions import ExpressionScorer
from runner.scorers.extractors import Notation, extract_all
from runner_base import SplitText, plugins

OWN: dict[str, type[Scorer]] = {Extractor.math.value: ExpressionScorer}  # scorers of others are plug-ins


@dataclass(frozen=True)
class ExtractedAnswers:
    """The answers found in a text, by extractor or scorer name."""

    found: dict[str, str | None]
    # whether the answer stands where one is announced, and so is the last word of a text
    marked: dict[str, bool]
    scorer: Scorer | None = None  # which compares; None: equal answers are equal texts

    def is_right(self, answer: str, gold: str) -> bool:
        """Return whether an extracted answer is the right one."""
        return answer == gold if self.scorer is None else self.scorer.is_right(answer, gold)

    def explain_comparison_failure(self, gold: str) -> str:
        """Return why an extracted answer could not be compared with the right one. Empty if it was."""
        if self.scorer is None:
            return ""
        return "".join(
            self.scorer.explain_comparison_failure(answer, gold)
            for answer in self.found.values()
            if answer is not None
        )


@cache
def load_scorer(name: str) -> Scorer:
    """Return a scorer by its name. Raises ConfigError if a plug-in's scorer cannot be imported."""
    if name in OWN:
        return OWN[name]()
    kind: type[Scorer] = plugins.load_plug_in_class("scorer", name, Scorer)  # type: ignore[type-abstract]
    return kind()


def extract_answers(
    parts: SplitText, gold: str, is_complete: bool, scorer: str | None = None
) -> ExtractedAnswers:
    """Extract the answer after the thinking, by a scorer, or as letter or number like the gold answer."""
    if scorer is None:
        return _apply_extractors(parts.answer, letters if gold in letters.LETTERS else numbers)
    rule = load_scorer(scorer)
    answer = None
    if not parts.is_open:
        answer = rule.find(parts.answer) if is_complete else rule.find_in_truncated(parts.answer)
    return ExtractedAnswers({scorer: answer}, {scorer: answer is not None}, rule)


def _apply_extractors(text: str, notation: Notation) -> ExtractedAnswers:
    found = {extractor.value: answer for extractor, answer in extract_all(text, notation).items()}
    marked = {name: answer is not None for name, answer in found.items()}
    # `flexible` finds a number in most texts: it is sure to be the answer only where #### marks one
    return ExtractedAnswers(found, marked | {Extractor.flexible.value: marked[Extractor.strict.value]})
