"""Detects the language of a text with the package langdetect, which is an optional extra."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec

from runner_base import ConfigError

PACKAGE = "langdetect"
MAX_CHARACTERS = 20_000  # langdetect reads 10,000 characters; web addresses do not count


def require_langdetect(kinds: str) -> str:
    """Return the installed version. If the package is missing, a ConfigError names the install command."""
    if find_spec(PACKAGE) is None:
        raise ConfigError(
            f"{kinds} need {PACKAGE}, which is not installed. Run pip install 'runner-llm[instructions]', or leave "
            f"these prompts out with task.exclude_kinds=[{kinds}]",
            code="needs_package",
        )
    return version(PACKAGE)


def detect_language(text: str) -> str | None:
    """Return the language's ISO 639-1 code, such as en or zh-cn. None if the text has no letters.

    The result is always the same for a text, because the seed of langdetect's random numbers is fixed.
    """
    return _detect_language_cached(text[:MAX_CHARACTERS])


@lru_cache(maxsize=64)  # an answer and its variants, which several instructions check
def _detect_language_cached(text: str) -> str | None:
    import langdetect

    langdetect.DetectorFactory.seed = 0
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None
