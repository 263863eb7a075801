"""Implements `runner-compare --teams`, which gives short names to teams of agents.

So teams with few keys in common can be compared with one baseline: `--teams --baseline
"team=one agent"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.options.agents.keys import OF_TEAM, AgentsConfig
from runner_compare import TEAM, Reader, Run, Section, get_agent_graph_origin, key_label

KEYS = {f"task.{name}" for name in OF_TEAM}
DECISIONS = {"final_refer": "decision", "majority_vote": "vote", "direct": "last agent"}
SEPARATOR = " · "


class TeamsSection(Section):
    """Section of the comparison report that shows a short team name for each run of task=agents."""

    def name_runs(self, runs: Sequence[Run], reader: Reader) -> Sequence[Run]:
        of_teams = [run.params for run in runs if run.task == AgentsConfig.name]
        return add_team_names_to_runs(runs, reader.key_rules.find_differing_keys(of_teams))

    def replaces_key(self, key: str) -> bool:
        return key in KEYS or key.startswith("generation.")


def add_team_names_to_runs(runs: Sequence[Run], differing_keys: Sequence[str]) -> list[Run]:
    """Set the parameter `team` of each run to a team name. Different teams get different names.

    `differing_keys` are the config keys that differ between runs.
    """
    keys = [key for key in differing_keys if SECTION.replaces_key(key)]
    names: dict[str, list[Run]] = {}
    for run in runs:
        if run.task == AgentsConfig.name:
            names.setdefault(describe_team(run), []).append(run)
    of_run = {}
    for team, members in names.items():
        told_apart = [key for key in keys if len({member.params.get(key) for member in members}) > 1]
        for member in members:
            more = [f"{key_label(key)}={member.params.get(key)}" for key in told_apart]
            of_run[member.run_id] = SEPARATOR.join([team, *more])
    named = {run_id: {TEAM: team_name} for run_id, team_name in of_run.items()}
    return [replace(run, params=run.params | named.get(run.run_id, {})) for run in runs]


def describe_team(run: Run) -> str:
    """Return a team's short description, such as `full_connected · learned by agent_prune` or `one
    agent × 8 · vote`.
    """
    decision = DECISIONS.get(run.get_value("task.decision_method") or "", "")
    mode = run.get_value("task.mode") or "unknown"
    if mode == "direct_answer":
        samples = int(float(run.get_value("task.samples") or 1))
        is_sampled = samples > 1
        many = f" × {samples}" if is_sampled else ""
        return SEPARATOR.join(
            [f"one agent{many}", *([decision] if is_sampled or decision == "decision" else [])]
        )
    kind = get_agent_graph_origin(run)
    method = run.get_value("task.method") if kind == "learned" else None
    by_method = f" by {method}" if method not in (None, "runner") else ""
    parts = [mode, *([f"{kind}{by_method}"] if kind != "fixed" else [])]
    parts += [decision] if decision not in ("decision", "") else []
    return SEPARATOR.join(parts)


SECTION = TeamsSection()
