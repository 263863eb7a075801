"""Reads the answer out of a text: numbers and letters by every extractor, all else by the scorer
that a job names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from runner.config.extractors import Extractor
from runner.scorers import letters, numbers
from runner.scorers.base import Scorer
from runner.scorers.expressions import Expressions
from runner.scorers.extracting import Notation, extract_all
from runner_base import Parts, plugins

OWN: dict[str, type[Scorer]] = {Extractor.math.value: Expressions}  # scorers of others are plug-ins


@dataclass(frozen=True)
class Reading:
    """What was found in a text, by the names of the extractors or of the scorer."""

    found: dict[str, str | None]
    # whether the answer stands where one is announced, and so is the last word of a text
    marked: dict[str, bool]
    scorer: Scorer | None = None  # which compares; None: equal answers are equal texts

    def is_right(self, answer: str, gold: str) -> bool:
        """Whether an answer that was found is the right one."""
        return answer == gold if self.scorer is None else self.scorer.is_right(answer, gold)

    def why_not(self, gold: str) -> str:
        """Say why what was found could not be compared with the right answer; empty if it was."""
        if self.scorer is None:
            return ""
        return "".join(
            self.scorer.why_not(answer, gold) for answer in self.found.values() if answer is not None
        )


@cache
def scorer_of(name: str) -> Scorer:
    """Return a scorer by its name; ConfigError if that of a plug-in cannot be imported."""
    if name in OWN:
        return OWN[name]()
    kind: type[Scorer] = plugins.load_class("scorer", name, Scorer)  # type: ignore[type-abstract]
    return kind()


def read(parts: Parts, gold: str, is_whole: bool, scorer: str | None = None) -> Reading:
    """Read the answer that follows the thinking: by a scorer, else as a letter or a number, as the
    right answer is."""
    if scorer is None:
        return _extracted(parts.answer, letters if gold in letters.LETTERS else numbers)
    rule = scorer_of(scorer)
    answer = None
    if not parts.is_open:
        answer = rule.find(parts.answer) if is_whole else rule.find_in_cut_off(parts.answer)
    return Reading({scorer: answer}, {scorer: answer is not None}, rule)


def _extracted(text: str, notation: Notation) -> Reading:
    found = {extractor.value: answer for extractor, answer in extract_all(text, notation).items()}
    marked = {name: answer is not None for name, answer in found.items()}
    # `flexible` finds a number in most texts: it is sure to be the answer only where #### marks one
    return Reading(found, marked | {Extractor.flexible.value: marked[Extractor.strict.value]})
