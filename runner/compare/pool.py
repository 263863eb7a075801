"""--by: one row for each combination of some keys, the runs that agree in them put together."""

from __future__ import annotations

from dataclasses import replace

from runner.compare.choose import listed
from runner.compare.columns import differing_keys
from runner.compare.data import NotPaired, Run, label
from runner.compare.evidence import Evidence
from runner.compare.pair import scoring
from runner.core.errors import ConfigError

COUNTS = ("n", "correct", "wrong", "no_answer", "cut_off", "prompt_tokens", "new_tokens", "seconds")
RATES = {"decode_tok_per_s": "new_tokens", "prefill_tok_per_s": "prompt_tokens"}  # of how many tokens


def pool(runs: list[Run], by: list[str], evidence: Evidence) -> list[Run]:
    """Put the runs together that agree in these keys; never two that answered the same question."""
    groups: dict[tuple[str | None, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.value(key) for key in by), []).append(run)
    return [_together(members, by, evidence) if len(members) > 1 else members[0] for members in groups.values()]


def _together(members: list[Run], by: list[str], evidence: Evidence) -> Run:
    members = sorted(members, key=lambda run: run.job_id)
    names = ", ".join(f"{label(key)}={members[0].value(key)}" for key in by)
    differing = differing_keys([run.params for run in members])
    apart = "; ".join(f"{label(key)}: {listed(run.value(key) for run in members)}" for key in differing)
    where = f"--by {','.join(map(label, by))}: the {len(members)} runs of {names}"
    if len({scoring(run) for run in members}) > 1:
        raise ConfigError(f"{where} were scored by different rules and cannot be put together ({apart or 'versions'})")
    if not all({"n", "correct"} <= run.metrics.keys() for run in members):
        raise ConfigError(f"{where} cannot be put together: not all of them counted right answers")
    params = {
        key: value for key, value in members[0].params.items() if all(run.params.get(key) == value for run in members)
    }
    whole = replace(
        members[0],
        run_id="+".join(run.run_id for run in members),
        job_id="+".join(run.job_id for run in members),
        folder=", ".join(run.folder for run in members),
        params=params,
        metrics=pooled_metrics([run.metrics for run in members]),
        parts=members,
    )
    try:
        answers = evidence.of(whole)
    except NotPaired as reason:
        raise ConfigError(f"{where} cannot be put together: {reason}") from reason
    if len(answers.solved) < whole.metrics["n"]:
        raise ConfigError(
            f"{where} answered the same questions more than once ({apart or 'nothing differs'}): name those keys in "
            "--by, too, or choose one value with --where"
        )
    return whole


def pooled_metrics(parts: list[dict[str, float]]) -> dict[str, float]:
    """Return what several runs measured together: counts added, speeds over all tokens, the highest memory."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    metrics = {}
    for name in shared:
        values = [part[name] for part in parts]
        tokens = RATES.get(name)
        if name in COUNTS:
            metrics[name] = sum(values)
        elif tokens in shared and all(values):
            metrics[name] = sum(part[tokens] for part in parts) / sum(part[tokens] / part[name] for part in parts)
        elif name.endswith("_mib"):
            metrics[name] = max(values)
        else:
            metrics[name] = sum(values) / len(values)
    if metrics.get("n"):
        metrics["accuracy"] = metrics["correct"] / metrics["n"]
    return {name: value for name, value in metrics.items() if name not in ("accuracy_low", "accuracy_high")}
