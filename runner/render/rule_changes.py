"""Describes changes between versions of the rules by which tasks judge answers."""

from __future__ import annotations

_THINKING_REMOVED = "only the text after the thinking is judged, and a boxed answer must be a number"
# what changed with a task's VERSION, for those who compare with a job that was scored before it
_TAGS_MENTIONED = (
    "quoted thinking tags are ignored, and an answer that was truncated after the thinking counts as wrong"
)
NEW_RULES = {
    ("gsm8k", 3): _THINKING_REMOVED,
    ("agents", 4): _THINKING_REMOVED,
    ("gsm8k", 4): _TAGS_MENTIONED,
    ("agents", 5): _TAGS_MENTIONED,
}


def describe_rule_changes(task: str, versions: tuple[str, str]) -> str:
    """Describe how the rules for judging a task's answers changed between two versions.

    Empty if the changes are unknown.
    """
    if not all(version.isdecimal() for version in versions):
        return ""
    old, new = sorted(map(int, versions))
    changed = (
        f"since version {at}, {what}"
        for (of, at), what in NEW_RULES.items()
        if of == task and old < at <= new
    )
    return "; ".join(changed)
