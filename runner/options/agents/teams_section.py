"""--teams: each job of task=agents is named by what its team is, in words, and not by a dozen keys.

So teams whose keys have little in common can be compared with one baseline: `--teams --baseline
"team=one agent"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.options.agents.keys import OF_TEAM, AgentsConfig
from runner_compare import TEAM, Reader, Run, Section, graph_kind, label

KEYS = {f"task.{name}" for name in OF_TEAM}
DECISIONS = {"final_refer": "decision", "majority_vote": "vote", "direct": "last agent"}
SEPARATOR = " · "


class TeamsSection(Section):
    """The names of teams."""

    def named(self, runs: Sequence[Run], reader: Reader) -> Sequence[Run]:
        """Return the runs, those of teams with the parameter `team`."""
        of_teams = [run.params for run in runs if run.task == AgentsConfig.name]
        return name_teams(runs, reader.key_rules.differing_keys(of_teams))

    def stands_for(self, key: str) -> bool:
        """Whether a team's name takes the place of this key."""
        return key in KEYS or key.startswith("generation.")


def name_teams(runs: Sequence[Run], differing: Sequence[str]) -> list[Run]:
    """Give each run of a team the parameter `team`. Teams that differ in a key never share a name.

    `differing` are the keys in which the runs differ.
    """
    keys = [key for key in differing if SECTION.stands_for(key)]
    names: dict[str, list[Run]] = {}
    for run in runs:
        if run.task == AgentsConfig.name:
            names.setdefault(team_words(run), []).append(run)
    of_run = {}
    for team, members in names.items():
        told_apart = [key for key in keys if len({member.params.get(key) for member in members}) > 1]
        for member in members:
            more = [f"{label(key)}={member.params.get(key)}" for key in told_apart]
            of_run[member.run_id] = SEPARATOR.join([team, *more])
    named = {run_id: {TEAM: team_name} for run_id, team_name in of_run.items()}
    return [replace(run, params=run.params | named.get(run.run_id, {})) for run in runs]


def team_words(run: Run) -> str:
    """Say what a team is: `full_connected · learned by agent_prune`, `one agent × 8 · vote`."""
    decision = DECISIONS.get(run.value("task.decision_method") or "", "")
    mode = run.value("task.mode") or "unknown"
    if mode == "direct_answer":
        samples = int(float(run.value("task.samples") or 1))
        is_sampled = samples > 1
        many = f" × {samples}" if is_sampled else ""
        return SEPARATOR.join(
            [f"one agent{many}", *([decision] if is_sampled or decision == "decision" else [])]
        )
    kind = graph_kind(run)
    method = run.value("task.method") if kind == "learned" else None
    by_method = f" by {method}" if method not in (None, "runner") else ""
    parts = [mode, *([f"{kind}{by_method}"] if kind != "fixed" else [])]
    parts += [decision] if decision not in ("decision", "") else []
    return SEPARATOR.join(parts)


SECTION = TeamsSection()
