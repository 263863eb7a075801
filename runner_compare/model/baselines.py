"""Find the baseline of each run among the compared runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner_base.notes import Note, note
from runner_compare.model.data import EXTRACTOR, JOB_ID, SCORER, NotPaired, Run, config_group, key_label
from runner_compare.model.key_rules import KeyRules

NOT_SET = "null"  # the value of a key without one, in a record


def find_baseline(run: Run, candidates: list[Run], baseline: dict[str, str], keys: list[str]) -> Run:
    """Return the candidate that differs from the run only in the keys that define the baseline.

    Within a config group that the baseline names, a key that only one run has is ignored: nf4
    has keys that `none` lacks. Raises NotPaired if no candidate, or more than one, fits.
    """
    chosen = groups_with_choice(baseline)

    def differing_keys(candidate: Run) -> list[str]:
        return [
            key
            for key in keys
            if key not in baseline
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
            f"no baseline: the nearest one differs in {format_key_differences(run, other, differing)}; "
            f"to compare anyway: --ignore {','.join(map(key_label, differing))}"
        )
    alike = [other for other in fitting if scoring_method(other) == scoring_method(run)] or fitting
    if len(alike) > 1:
        several = ", ".join(sorted(other.job_id for other in alike)[:3])
        raise NotPaired(f"{len(alike)} baselines match ({several}): name one, e.g. with {JOB_ID}=…")
    return alike[0]


def is_ignored_key(key: str, ignored_keys: Sequence[str]) -> bool:
    """Whether --ignore names a config key, or the choice of the key's group."""
    return key in ignored_keys or config_group(key) in groups_with_choice(ignored_keys)


def ignored_differences_note(
    run: Run, base: Run, ignored_keys: Sequence[str], rules: KeyRules
) -> Note | None:
    """Return a note about keys that --ignore names and in which two runs differ; None if there are
    none.
    """
    keys = [
        key for key in rules.differing_keys([run.params, base.params]) if is_ignored_key(key, ignored_keys)
    ]
    return note("ignored", settings=format_key_differences(run, base, keys)) if keys else None


def format_key_differences(run: Run, base: Run, keys: list[str]) -> str:
    """Format the values of each key in both runs, e.g. `seed (0, here 1)`."""
    return ", ".join(f"{key_label(key)} ({base.get_value(key)}, here {run.get_value(key)})" for key in keys)


def scoring_method(run: Run) -> str:
    """Return the task version and the extractor or scorer with which a run was scored."""
    by = next(
        (method for key in (SCORER, EXTRACTOR) if (method := run.get_value(key)) not in (None, NOT_SET)), ""
    )
    return f"version {run.task_version} {by}".strip()


def groups_with_choice(keys: Iterable[str]) -> set[str]:
    """Return the config groups for which these keys include the group's choice."""
    return {config_group(key) for key in keys if key.endswith(".name")}
