"""Helpers for the fields of the schema: the marker of a missing value, free texts, what counts in a
job's identity."""

from __future__ import annotations

from dataclasses import MISSING as NO_FACTORY
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Annotated, Any

from runner_base.bounds import Takes

NOTES = "notes"  # the group of the user's own keys
MISSING: Any = "???"  # OmegaConf's marker for a value that the user must give
# a comma or ${...} is a part of it; a plain str is a name or a path
Text = Annotated[str, "words for a model"]
Names = Annotated[Any, "a name or a list of names"]  # OmegaConf has no type for it


DEFAULT: Any = object()  # in `Unless`: the key's default


@dataclass(frozen=True)
class Inert:
    """A key that is not in the job's identity, and why: it cannot change an answer, or a hash
    counts instead."""

    why: str
    measured: bool = False  # it affects measured times or costs
    only: tuple[Any, ...] = ()  # the values for which that holds; empty: all

    def covers(self, value: Any) -> bool:
        """Whether the key is not in the identity with such a value."""
        return not self.only or value in self.only


@dataclass(frozen=True)
class DefaultAs:
    """A key whose default is in the job's identity as another value: older jobs with that keep
    their ids."""

    value: Any


@dataclass(frozen=True)
class Unless:
    """A key that is in the job's identity unless it has one value: its default, or the value by which
    jobs ran before the key existed. Older jobs without it keep their ids."""

    value: Any = DEFAULT
    changes_answers: bool = True


HASHED = Inert("a location; the SHA-256 of the content counts instead")
UNLESS_DEFAULT = Unless()


def setting(
    default: Any, counts: Inert | Unless | DefaultAs | None = None, takes: Takes | None = None
) -> Any:
    """Return a field of the schema, how it counts in the job's identity (None: with its value), and
    what it takes."""
    return field(default=default, metadata={"counts": counts, "takes": takes})


def counts_of(item: Field[Any]) -> Inert | Unless | DefaultAs | None:
    """Return how a field counts in the job's identity; None: with its value."""
    return item.metadata.get("counts")


def default_of(item: Field[Any]) -> Any:
    return item.default if item.default_factory is NO_FACTORY else item.default_factory()


def omitted_value(item: Field[Any]) -> Any:
    """Return the value with which a field is not in the job's identity, if it counts as `Unless`;
    otherwise its default."""
    counts = counts_of(item)
    if isinstance(counts, Unless) and counts.value is not DEFAULT:
        return counts.value
    return default_of(item)


def choice_of(config: object) -> str | None:
    """Return the name of the choice that a group's class defines; None if it has none, or if the
    name is a key."""
    if not is_dataclass(config) or any(item.name == "name" for item in fields(config)):
        return None
    kind = config if isinstance(config, type) else type(config)
    name: str | None = getattr(kind, "name", None)
    return name
