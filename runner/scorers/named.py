"""The scorer that a job names: that of expressions, or one of a plug-in."""

from __future__ import annotations

from functools import cache

from runner.config.extractors import Extractor
from runner.scorers.base import Scorer
from runner.scorers.expressions import Expressions
from runner_base import plugins


@cache
def scorer_of(name: str) -> Scorer:
    """Return a scorer by its name; ConfigError if that of a plug-in cannot be imported."""
    if name == Extractor.math:
        return Expressions()
    kind: type[Scorer] = plugins.load_class("scorer", name, Scorer)  # type: ignore[type-abstract]
    return kind()
