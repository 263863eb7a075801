"""Lists the sections of the comparison report in display order. Each section has its own
module.

Other packages add sections by entry points of the group `runner_compare.sections`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from runner_base import entry_points, print_message
from runner_base.plugins import describe_unknown_entry_point_groups
from runner_compare.section import Section

GROUP = "runner_compare.sections"
NAMES = (
    "cut_offs",  # what answers that were cut off leave open
    "changed_answers",  # of rows that only differ in who guesses tokens: how many answers differ
    "degeneration",  # answers that loop, change their script, have broken characters or are empty
    "noise_floor",  # of a baseline that was run twice: how many answers differ
    "several_answers",  # several answers to a question: the mean, pass@k, the vote
    "unread_answers",  # of which rows the rule that judged has read few answers
    "beyond_trained",  # rows whose texts may be longer than their RoPE setting is made for
    "training_seeds",  # rows that are training runs of one recipe
    "planning",  # --plan-questions: how many questions a comparison needs
    "token_costs",  # what the answers of teams cost in tokens
    "savings",  # what a team saves of its baseline's tokens
    "thinking",  # how long rows think, and what a right answer costs
    "right_answers",  # what a right answer costs: time, tokens, money, energy
    "budgets",  # settings with several budgets of thinking, at equal tokens
    "recall",  # how far back models can look: recall by length and depth, the effective length
    "tool_calls",  # calls of functions: at which step they fail, and who is better in which category
    "contexts",  # the same tokens after several contexts: up to how much context helps
    "answer_positions",  # loss and divergence by generated position: from where on the divergence grows
    "positions",  # loss and divergence by position
    "tokens",  # divergence from a reference token by token
    "seeds",  # --seeds: how far seeds are apart
    "missing_jobs",  # jobs of the grid without a result
    "gates",  # --require: what each row has to satisfy
    "files",  # --files: a line for each model file in place of the tables
    "recovery",  # --card: accuracy divided by the baseline's, per task and pooled
    "pooled",  # --pool: one verdict for each setting over several tasks
    "flips",  # --flips: the questions that only one of two runs solved
    "front",  # of accuracy, memory, speed and energy: which rows no other one dominates
)


@cache
def load_comparison_sections() -> tuple[Section, ...]:
    """Return the sections of this package, followed by the sections of plug-ins in alphabetical order."""
    for message in describe_unknown_entry_point_groups():
        print_message(f"note: {message}")
    own = (import_module(f"runner_compare.features.{name}.section").SECTION for name in NAMES)
    return *own, *(
        entry_points.load_entry_point(GROUP, name, Section)
        for name in sorted(entry_points.find_entry_points(GROUP))
    )
