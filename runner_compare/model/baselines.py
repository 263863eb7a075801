"""Find the baseline of each run among the compared runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner_base.notes import Note, note
from runner_compare.model.data import EXTRACTOR, JOB_ID, SCORER, NotPaired, Run, config_group, key_label
from runner_compare.model.key_rules import KeyRules

NOT_SET = "null"  # the value of a key without one, in a record


def find_baseline(run: Run, candidates: list[Run], baseline_values: dict[str, str], keys: list[str]) -> Run:
    """Return the candidate that equals the run in all keys, except for the keys given in `baseline_values`.

    Within a config group that the baseline names, a key that only one run has is ignored: nf4
    has keys that `none` lacks. Raises NotPaired if no candidate, or more than one, fits.
    """
    chosen = find_groups_with_choice(baseline_values)

    def differing_keys(candidate: Run) -> list[str]:
        return [
            key
            for key in keys
            if key not in baseline_values
            and run.get_value(key) != candidate.get_value(key)
            and not (None in (run.get_value(key), candidate.get_value(key)) and config_group(key) in chosen)
        ]

    if not candidates:
        raise NotPaired("no baseline in this task")
    differences_of = [(differing_keys(other), other) for other in candidates]
    fitting = [other for differing, other in differences_of if not differing]
    if not fitting:
        differing, other = min(differences_of, key=lambda item: len(item[0]))
        raise NotPaired(
            "no run can be the baseline. The most similar run differs in "
            f"{format_key_differences(run, other, differing)}. "
            f"To compare anyway, add --ignore {','.join(map(key_label, differing))}"
        )
    alike = [other for other in fitting if get_scoring_method(other) == get_scoring_method(run)] or fitting
    if len(alike) > 1:
        several = ", ".join(sorted(other.job_id for other in alike)[:3])
        raise NotPaired(
            f"{len(alike)} runs can be the baseline ({several}). Select one, e.g. with --baseline {JOB_ID}=…"
        )
    return alike[0]


def is_ignored_key(key: str, ignored_keys: Sequence[str]) -> bool:
    """Return whether --ignore names a config key, or the choice of the key's config group."""
    return key in ignored_keys or config_group(key) in find_groups_with_choice(ignored_keys)


def create_ignored_keys_note(
    run: Run, base: Run, ignored_keys: Sequence[str], rules: KeyRules
) -> Note | None:
    keys = [
        key
        for key in rules.find_differing_keys([run.params, base.params])
        if is_ignored_key(key, ignored_keys)
    ]
    return note("ignored", settings=format_key_differences(run, base, keys)) if keys else None


def format_key_differences(run: Run, base: Run, keys: list[str]) -> str:
    """Format the two values of each key, such as `seed (0, here 1)`. The baseline's value comes first."""
    return ", ".join(f"{key_label(key)} ({base.get_value(key)}, here {run.get_value(key)})" for key in keys)


def get_scoring_method(run: Run) -> str:
    """Return the rules by which a run was scored: its task version and its extractor or scorer."""
    by = next(
        (method for key in (SCORER, EXTRACTOR) if (method := run.get_value(key)) not in (None, NOT_SET)), ""
    )
    return f"version {run.task_version} {by}".strip()


def find_groups_with_choice(keys: Iterable[str]) -> set[str]:
    return {config_group(key) for key in keys if key.endswith(".name")}
