"""Formats of data sets: which keys of a record are the question, the choices and the gold answer, and how
the prompt is written.

A format is a YAML file. Its texts are Jinja templates and its values Jinja expressions, as in lm-eval's tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from runner.options.multiple_choice.keys import ChoiceMetric
from runner.scorers import LETTERS
from runner_base import (
    ConfigError,
    DataError,
    format_truncated_repr,
    format_unknown_choice_message,
    read_text,
)

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

FOLDER = Path(__file__).with_name("formats")
PLAIN = "plain"  # the format of a file that names none
ORDERS = ("random", "first")
YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class ChoiceFormat:
    """How the records of a data set become questions, and where its records are."""

    TEMPLATES: ClassVar[tuple[str, ...]] = ("question", "prompt", "continuation", "description")

    question: str  # template: the question alone, for a chat
    prompt: str  # template: what stands before the scored text; may use choice
    choices: str  # expression: a list of texts
    gold: str | None = None  # expression: an index from 0, a letter, a text, or a list of these
    labels: str | None = None  # expression instead of gold: 1 for each right choice, and 0 for the others
    continuation: str = " {{choice}}"  # template: the scored text
    description: str = ""  # template: before the worked examples
    subject: str | None = None  # expression
    metric: ChoiceMetric = ChoiceMetric.acc
    data: str | None = None
    subset: str | None = None
    split: str = "test"
    shots_split: str | None = None
    shots_order: str = "random"  # random draws other examples for each question

    @cached_property
    def environment(self) -> SandboxedEnvironment:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)
        environment.filters["regex_replace"] = _regex_replace
        return environment

    def render(self, key: str, values: Mapping[str, Any]) -> str:
        """Render a template with the values of a record. Raises ValueError if a value is missing."""
        return str(self._evaluate(key, values, self._compiled_templates_and_expressions[key].render))

    def evaluate(self, key: str, values: Mapping[str, Any]) -> Any:
        """Evaluate an expression with the values of a record. Raises ValueError if a value is missing."""
        value = self._evaluate(key, values, self._compiled_templates_and_expressions[key])
        if value is None:
            raise ValueError(f"{key} ({getattr(self, key)}) has no value")
        return value

    def _evaluate(self, key: str, values: Mapping[str, Any], compiled: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return compiled(dict(values))
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise ValueError(f"{key} ({getattr(self, key)[-60:]!r}) fails: {error}") from error

    @cached_property
    def _compiled_templates_and_expressions(self) -> dict[str, Any]:
        from jinja2 import TemplateError

        compiled: dict[str, Any] = {}
        for key in (*self.TEMPLATES, "choices", "gold", "labels", "subject"):
            text = getattr(self, key)
            if text is None:
                continue
            try:
                if key in self.TEMPLATES:
                    compiled[key] = self.environment.from_string(text)
                else:
                    compiled[key] = self.environment.compile_expression(text)
            except TemplateError as error:
                raise ConfigError(
                    f"{text!r} is no valid Jinja ({error}). Correct this key of the format",
                    key=key,
                    code="bad_value",
                ) from error
        return compiled


def _regex_replace(text: str, pattern: str, replacement: str = "", count: int = 0) -> str:
    """The filter of lm-eval's templates."""
    return re.sub(pattern, replacement, text, count=count)


@dataclass(frozen=True)
class ChoiceRecord:
    """A record as its format reads it. Prompts and continuations have one text for each choice."""

    values: Mapping[str, Any]
    question: str  # with the lettered choices
    choices: tuple[str, ...]
    gold: tuple[int, ...]
    subject: str | None
    description: str
    prompts: tuple[str, ...]
    continuations: tuple[str, ...]

    @property
    def example(self) -> str:
        """The record as a worked example."""
        return f"{self.prompts[self.gold[0]]}{self.continuations[self.gold[0]]}\n\n"


def parse_record(values: Mapping[str, Any], form: ChoiceFormat) -> ChoiceRecord:
    """Read a record. Raises ValueError if it is malformed."""
    choices = form.evaluate("choices", values)
    is_list = isinstance(choices, Sequence) and not isinstance(choices, str)
    if not is_list or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError(f"choices must be a list of texts, found {format_truncated_repr(choices)}")
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"a question needs 2 to {len(LETTERS)} choices, found {len(choices)}")
    texts = tuple(choices)
    if form.labels is not None:
        gold = _parse_labels(form.evaluate("labels", values), len(texts))
    else:
        gold = _parse_gold_choice_indices(form.evaluate("gold", values), texts)
    lettered = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    by_choice = [
        {**values, "choice": text, "letter": letter, "lettered": lettered}
        for letter, text in zip(LETTERS, texts, strict=False)
    ]
    prompts = tuple(form.render("prompt", each) for each in by_choice)
    question = form.render("question", by_choice[0] | {"prompt": prompts[0]})
    return ChoiceRecord(
        values,
        f"{question}\n{lettered}",
        texts,
        gold,
        None if form.subject is None else str(form.evaluate("subject", values)),
        form.render("description", values),
        prompts,
        tuple(form.render("continuation", each) for each in by_choice),
    )


def _parse_labels(labels: Any, num_choices: int) -> tuple[int, ...]:
    is_list = isinstance(labels, Sequence) and not isinstance(labels, str)
    if not is_list or len(labels) != num_choices or not all(label in (0, 1) for label in labels):
        raise ValueError(
            f"labels must be {num_choices} numbers 0 or 1, found {format_truncated_repr(labels)}"
        )
    right = tuple(index for index, label in enumerate(labels) if label == 1)
    if not right:
        raise ValueError("labels mark no choice as right")
    return right


def _parse_gold_choice_indices(gold: Any, choices: tuple[str, ...]) -> tuple[int, ...]:
    values = [gold] if isinstance(gold, str) or not isinstance(gold, Sequence) else gold
    right = tuple(dict.fromkeys(_find_gold_index(value, choices) for value in values))
    if not right:
        raise ValueError("no choice is right")
    return right


def _find_gold_index(value: Any, choices: tuple[str, ...]) -> int:
    index = value
    if isinstance(value, str):
        letters = LETTERS[: len(choices)]
        if value in choices:
            index = choices.index(value)
        elif len(value.strip()) == 1 and value.strip().upper() in letters:
            index = letters.index(value.strip().upper())
        elif value.strip().isdecimal():
            index = int(value)
    if not isinstance(index, int) or not 0 <= index < len(choices):
        raise ValueError(
            f"the gold answer {format_truncated_repr(value)} is none of the {len(choices)} choices. Give an index from "
            f"0 to {len(choices) - 1}, a letter from A to {LETTERS[len(choices) - 1]}, or the text of a choice"
        )
    return index


def list_format_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_multiple_choice_format(name: str, key: str) -> ChoiceFormat:
    """Load a format by its name or from a YAML file. Raises ConfigError that names the config key."""
    path = Path(name).expanduser()
    if path.suffix not in YAML_SUFFIXES:
        path = FOLDER / f"{name}.yaml"
        if not path.is_file():
            raise ConfigError(
                format_unknown_choice_message("data set", name, list_format_names()),
                key=key,
                value=name,
                code="unknown_choice",
            )
    import yaml

    text = read_text(path, f"{key}={name}")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"no valid YAML ({error})", key=path, code="damaged") from error
    known = {field.name: field for field in fields(ChoiceFormat)}
    if not isinstance(values, dict):
        raise DataError(
            "a format needs the keys question, prompt, choices and gold", key=path, code="damaged"
        )
    for each, value in values.items():
        if each not in known:
            raise ConfigError(
                format_unknown_choice_message("key of a format", str(each), known),
                key=path,
                code="unknown_choice",
            )
        values[each] = str(value)
    return _check_and_build_choice_format(values, path)


def _check_and_build_choice_format(values: dict[str, Any], path: Path) -> ChoiceFormat:
    missing = [key for key in ("question", "prompt", "choices") if key not in values]
    if missing or ("gold" in values) == ("labels" in values):
        need = missing[0] if missing else "either gold or labels"
        raise ConfigError(f"the format needs {need}. Add this key", key=path, code="missing")
    for key, choices in (("metric", [each.value for each in ChoiceMetric]), ("shots_order", ORDERS)):
        if key in values and values[key] not in choices:
            raise ConfigError(
                format_unknown_choice_message(key, values[key], choices), key=path, code="unknown_choice"
            )
    if "metric" in values:
        values["metric"] = ChoiceMetric(values["metric"])
    data = values.get("data")
    if data is not None and data.startswith("."):
        values["data"] = str((path.parent / data).absolute())
    return ChoiceFormat(**values)
