"""Field helpers for config classes: required values, prompts, constraints and job identity."""

from __future__ import annotations

from dataclasses import MISSING as NO_FACTORY
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Annotated, Any

from runner_base.bounds import ValueConstraint

NOTES = "notes"  # the group of the user's own keys
MISSING: Any = "???"  # OmegaConf's marker for a value that the user must give
# a comma or ${...} is a part of it; a plain str is a name or a path
Text = Annotated[str, "words for a model"]
Names = Annotated[Any, "a name or a list of names"]  # OmegaConf has no type for it


DEFAULT: Any = object()  # in `Unless`: the key's default


@dataclass(frozen=True)
class NotInIdentity:
    """Job id rule that leaves a config key out of the job id, with the reason.

    It cannot change an answer, or a hash counts instead.
    """

    why: str
    measured: bool = False  # it affects measured times or costs
    only: tuple[Any, ...] = ()  # the values for which that holds; empty: all

    def excludes(self, value: Any) -> bool:
        """Return whether the job id omits the key when it has this value."""
        return not self.only or value in self.only


@dataclass(frozen=True)
class DefaultCountsAs:
    """Job id rule that puts `value` into the job id in place of the default, so that existing jobs keep
    their ids.
    """

    value: Any


@dataclass(frozen=True)
class InIdentityUnless:
    """Job id rule that omits a config key when the key has one specific value.

    That value is the default, or the value that was used before the key existed. Older jobs
    without the key keep their ids.
    """

    value: Any = DEFAULT
    changes_answers: bool = True


HASHED = NotInIdentity("the job id includes the SHA-256 of the content instead")
UNLESS_DEFAULT = InIdentityUnless()


def config_field(
    default: Any,
    identity_rule: NotInIdentity | InIdentityUnless | DefaultCountsAs | None = None,
    constraint: ValueConstraint | None = None,
    renamed_from: str | None = None,
) -> Any:
    """Declare a config field, its effect on the job id and its allowed values.

    Without an identity rule, its value is part of the job id. The job id contains the old name of a
    renamed field.
    """
    metadata = {"counts": identity_rule, "takes": constraint, "renamed_from": renamed_from}
    return field(default=default, metadata=metadata)


def get_identity_rule(field_def: Field[Any]) -> NotInIdentity | InIdentityUnless | DefaultCountsAs | None:
    """Return the job id rule of a config key. None means that every value is part of the job id."""
    return field_def.metadata.get("counts")


def get_identity_name(field_def: Field[Any]) -> str:
    """Return the field's name in the job id.

    A renamed field keeps its first name there, so that existing jobs keep their ids.
    """
    return field_def.metadata.get("renamed_from") or field_def.name


def get_default(field_def: Field[Any]) -> Any:
    return field_def.default if field_def.default_factory is NO_FACTORY else field_def.default_factory()


def get_value_omitted_from_job_id(config_key_field: Field[Any]) -> Any:
    """Return the value at which the job id omits the key."""
    counts = get_identity_rule(config_key_field)
    if isinstance(counts, InIdentityUnless) and counts.value is not DEFAULT:
        return counts.value
    return get_default(config_key_field)


def get_choice_name(group_config: object) -> str | None:
    """Return the choice name that a config class defines.

    Returns None if the class has no choice name, or if `name` is a config key.
    """
    if not is_dataclass(group_config) or any(item.name == "name" for item in fields(group_config)):
        return None
    kind = group_config if isinstance(group_config, type) else type(group_config)
    name: str | None = getattr(kind, "name", None)
    return name
