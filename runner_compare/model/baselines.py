"""Finds the baseline of a run among those that are compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runner_base.notes import Note, note
from runner_compare.model.data import EXTRACTOR, JOB_ID, SCORER, NotPaired, Run, group, label
from runner_compare.model.key_rules import KeyRules

NOT_SET = "null"  # the value of a key without one, in a record


def find_baseline(run: Run, candidates: list[Run], baseline: dict[str, str], keys: list[str]) -> Run:
    """Return the one candidate that differs from the run only in the baseline's keys.

    nf4 has keys that `none` lacks: within a group that the baseline names, a key that only one of
    the two runs has comes with the choice and does not count.
    """
    chosen = named_groups(baseline)

    def differences(other: Run) -> list[str]:
        return [
            key
            for key in keys
            if key not in baseline
            and run.value(key) != other.value(key)
            and not (None in (run.value(key), other.value(key)) and group(key) in chosen)
        ]

    if not candidates:
        raise NotPaired("no baseline in this task")
    differences_of = [(differences(other), other) for other in candidates]
    fitting = [other for differing, other in differences_of if not differing]
    if not fitting:
        differing, other = min(differences_of, key=lambda item: len(item[0]))
        raise NotPaired(
            f"no baseline: the nearest one differs in {both_values(run, other, differing)}; "
            f"to compare anyway: --ignore {','.join(map(label, differing))}"
        )
    alike = [other for other in fitting if scoring(other) == scoring(run)] or fitting
    if len(alike) > 1:
        several = ", ".join(sorted(other.job_id for other in alike)[:3])
        raise NotPaired(f"{len(alike)} baselines match ({several}): name one, e.g. with {JOB_ID}=…")
    return alike[0]


def is_ignored(key: str, ignored: Sequence[str]) -> bool:
    """Whether --ignore names a key, or the choice of the key's group."""
    return key in ignored or group(key) in named_groups(ignored)


def differing_ignored(run: Run, base: Run, ignored: Sequence[str], rules: KeyRules) -> Note | None:
    """Return a remark about the ignored keys in which two runs differ; None if there are none."""
    keys = [key for key in rules.differing_keys([run.params, base.params]) if is_ignored(key, ignored)]
    return note("ignored", settings=both_values(run, base, keys)) if keys else None


def both_values(run: Run, base: Run, keys: list[str]) -> str:
    """Return both runs' values of each key: `seed (0, here 1)`."""
    return ", ".join(f"{label(key)} ({base.value(key)}, here {run.value(key)})" for key in keys)


def scoring(run: Run) -> str:
    """Return the rules by which a run was scored: the task's version, and the extractor or the
    scorer."""
    by = next(
        (method for key in (SCORER, EXTRACTOR) if (method := run.value(key)) not in (None, NOT_SET)), ""
    )
    return f"version {run.task_version} {by}".strip()


def named_groups(keys: Iterable[str]) -> set[str]:
    """Return the config groups whose choice is among these keys."""
    return {group(key) for key in keys if key.endswith(".name")}
