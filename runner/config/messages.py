"""Builds errors about wrong keys, values or choices, each with the full key, the nearest valid one
and all choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from omegaconf.errors import ValidationError

from runner.config.choice_suggestions import suggest_choice
from runner.config.choices import CONF, list_choices
from runner.config.groups import GROUPS, collect_key_types, schema_keys
from runner.config.root import RunnerConfig
from runner_base import ConfigError, find_plug_ins, format_unknown_choice_message
from runner_base.errors import NOT_GIVEN, find_closest_names

# old names of choices and keys, and what to use instead
RENAMED = {
    "task=pipeline": (
        "task=generate model=parts model.name=FOLDER. Use model.stages, "
        "model.micro_batch and model.timeout_s for task.processes, task.micro_batch and task.timeout_s"
    ),
    "task.until": "task.early_stop_vs",
    "task.batch": "task.batch_sizes",
    "task.context": "task.context_lengths",
}


REPEAT = "task.repeat_index"
NOTES = "notes"  # the user's own keys


def make_unknown_choice_error(group: str, choice: str, options: Iterable[str]) -> ConfigError:
    """Build the error for an unknown choice of a config group. The error suggests a similar choice, or
    the new name.
    """
    if (now := RENAMED.get(f"{group}={choice}")) is not None:
        return ConfigError(f"{group}={choice} is now {now}", code="unknown_choice")
    if meaning := suggest_choice(group, choice):
        return ConfigError(meaning, code="unknown_choice")
    reason = f"{format_unknown_choice_message('', choice, options)}{_format_plugin_packages(group)}"
    return ConfigError(reason, key=group, value=choice, code="unknown_choice")


def _format_plugin_packages(kind: str) -> str:
    """Return a clause that names the package of each plug-in. Empty without plug-ins."""
    return "".join(f"; {plug_in.name} is from {plug_in.package}" for plug_in in find_plug_ins(kind).values())


def make_invalid_override_value_error(cause: ValidationError, override: str) -> ConfigError:
    before, _, value = override.partition("=")
    key, value = cause.full_key or before, value.strip("'\"")  # its quotes may be ours
    reason = str(cause.msg or cause).splitlines()[0]
    if not value and (interpolated := re.search(r"Value '(.*?)' of type", reason)):
        value = interpolated[1]
    if choices := re.search(r"expected one of \[([^\]]*)\]", reason):
        names = [name.strip(" '") for name in choices[1].split(",")]
        reason = format_unknown_choice_message("", value, names)
        return ConfigError(reason, key=key, value=value, code="unknown_choice")
    if expected := re.search(r"could not be converted to (\w+)", reason):
        types = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        reason = f"{types.get(expected[1], expected[1])} is needed"
        return ConfigError(reason, key=key, value=value, code="bad_value")
    if "is not a ListConfig" in reason and value:
        reason = f"a list is needed: {key}=[{value}]"
    return ConfigError(reason, key=key, value=value or NOT_GIVEN, code="bad_value")


def make_unknown_key_error(key: str, owner: object = None, value: object = None) -> ConfigError:
    head, dot, last = key.rpartition(".")
    head = head.lstrip("+~")
    if key.lstrip("+~") == "dataset":
        return _unknown_key_error(key, f"the task names its data set. Use task.data={value or 'NAME'}")
    if (now := RENAMED.get(key.lstrip("+~"))) is not None and now.rpartition(".")[2] in schema_keys(owner):
        return ConfigError(f"{key} is now {now}", code="unknown_choice")
    if key.lstrip("+~") == REPEAT and schema_keys(owner):
        return _unknown_key_error(key, _suggest_how_to_repeat_task(schema_keys(owner)))
    if head == NOTES:
        return _unknown_key_error(
            key, f"this note does not exist. To add it, use +{NOTES}.{last}={_value_or_placeholder(value)}"
        )
    names = schema_keys(owner) or set().union(*map(schema_keys, GROUPS.get(head, {}).values()))
    if (
        head in {*GROUPS, "profile"}
        and last not in names
        and get_close_matches(last, {*names, "name"}, 1) == ["name"]
    ):
        return _build_unsupported_name_key_error(key, head, value)
    groups = [path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "dataset")]
    choices = {f"{head}.{name}" for name in names} if dot else {*groups, *schema_keys(RunnerConfig)}
    tasks = _list_tasks_with_key(key)
    likely = list(_find_similar_keys(key, choices)) or find_closest_names(key, sorted(choices))
    other = (
        f"{key} is a key of {'task=' + tasks[0] if len(tasks) == 1 else 'other tasks: ' + ', '.join(tasks)}"
    )
    what = "key" if dot else "group or key"
    problem = format_unknown_choice_message(what, key, choices, likely, show_choices=not likely)
    own = "" if dot else _suggest_notes_override(key, choices, value)
    more = ". ".join(filter(None, (other if tasks else "", own)))
    return _unknown_key_error(key, f"{problem}{' ' if likely else '. '}{more}" if more else problem)


def _unknown_key_error(key: str, message: str, value: object = NOT_GIVEN) -> ConfigError:
    return ConfigError(message, key=key, value=value, code="unknown_choice")


def _suggest_notes_override(key: str, choices: set[str], value: object) -> str:
    """Return a suggestion to use +notes.NAME for an unknown key. Empty if the key resembles a config key."""
    name = key.lstrip("+~")
    if find_closest_names(name, sorted(choices)) not in ([], [NOTES]):
        return ""
    return f"To record a note, use +{NOTES}.{name}={_value_or_placeholder(value)}"


def _value_or_placeholder(value: object) -> str:
    return "VALUE" if value is None else str(value)


def _suggest_how_to_repeat_task(task_keys: set[str]) -> str:
    """Return a suggestion for repeating a task that has no key task.repeat_index."""
    if "repeats" in task_keys:
        return "to repeat measurements within a job, use task.repeats. To repeat the whole job, use rerun=all"
    *others, last = (f"task={task}" for task in _list_tasks_with_key(REPEAT))
    tasks = f"{', '.join(others)} and {last}"
    return (
        f"only {tasks} have the key task.repeat_index. To repeat this task with other random numbers, "
        "set another seed, such as seed=1"
    )


def _list_tasks_with_key(key: str) -> list[str]:
    """Return the tasks that have this config key, for an error about a task that lacks it."""
    head, _, name = key.rpartition(".")
    return sorted(task for task, schema in GROUPS["task"].items() if name in schema_keys(schema)) * (
        head == "task"
    )


def _build_unsupported_name_key_error(key: str, group: str, value: object) -> ConfigError:
    choices = list_choices(group)
    name = str(value or "").strip("'\"")
    if group == "model":  # most choices have such a key: the model's location, or its name on the server
        use = f"model=auto model.name={name or 'FOLDER_OR_HUB_ID'}"
        return _unknown_key_error(key, f"the chosen model has no key `name`. Use {use}", name or NOT_GIVEN)
    use = f"{group}={name if name in choices else 'CHOICE'}"
    reason = f"the group {group} has no key `name`. Use {use}. Choices for {group}: {', '.join(choices)}"
    return _unknown_key_error(key, reason, name or NOT_GIVEN)


def _find_similar_keys(key: str, choices: set[str]) -> list[str]:
    """Return the full names of config keys, given a key whose group is missing or wrong."""
    last = key.lstrip("+~").rpartition(".")[2]
    by_name: dict[str, list[str]] = {}
    for known in (
        known for known in collect_key_types() if known.count(".") < 2
    ):  # a student has the keys of a model, too
        by_name.setdefault(known.rpartition(".")[2], []).append(known)
    near = [] if find_closest_names(key, sorted(choices)) else get_close_matches(last, by_name, n=1)
    meant = by_name.get(last) or [known for name in near for known in by_name[name]]
    # another choice of the same group may have it
    return [known for known in meant if known != key]
