"""Who judges models that think as a careful reader does? `python bench/thinking_verdicts.py`.

tests/scorers/thinking_outputs.jsonl has 200 outputs of models that think, each judged by hand. lm-evaluation-harness,
lighteval and inspect_ai judge them by their own code in environments of their own, below outputs/ (installed at first
use), and so does the runner. A verdict is wrong if it is `right` where the reader's is not, or the reverse: a peer has
no word for an answer that was cut off, so there it only must not say `right`.

lm-eval's and lighteval's task gsm8k reads numbers, so outputs whose answer is a letter are left out for these two. Of
what is left, the second figure counts only outputs where the peer judges the answer alone, as the reader has separated
it, like the reader, so that what goes wrong goes wrong because of the thinking. The third counts, of these, only what
the peer is meant for by its own documentation: thinking that has ended, tags that stand in no code and no quotes, and

- lm-eval: the closing tag is named (`think_end_token`); thinking that a server has sent apart is not read at all;
- lighteval: both tags stand in the text, and are named (`--reasoning-tags`) or its own (<think>);
- inspect_ai: <think> and </think> stand in the text, or a server has sent the thinking apart.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import latest
from engines import ROOT, markdown
from gsm8k_vs_lmeval import ask_lm_eval, write_rows
from heading import parse_arguments
from other_engines import HARNESS, INSPECT, LIGHTEVAL, harness_python, inspect_python, lighteval_python

from runner.scorers.verdicts import judge_answer
from runner_base import Answer, FinishReason
from runner_base.thinking import TAGS, Tag

OUTPUTS = ROOT / "tests" / "scorers" / "thinking_outputs.jsonl"
THINK = ["<think>", "</think>"]
FILTERS = ("strict", "flexible")

Case = dict[str, Any]
Scores = list[bool]
Score = Callable[[Sequence[Case]], Scores]
IsMeant = Callable[[Case], bool]


def main() -> None:
    """Let everyone judge, and print how often each is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--environments", type=Path, default=ROOT / "outputs", help="where the peers are installed"
    )
    parser.add_argument(
        "--list", action="store_true", help="also print what each judges wrong because of the thinking"
    )
    latest.add_option(parser)
    options = parse_arguments(parser)
    print(f"`python {shlex.join(sys.argv)}`", end="\n\n", flush=True)
    cases = [json.loads(line) for line in OUTPUTS.read_text(encoding="utf-8").splitlines()]
    numbers = [one for one in cases if not one["gold"].isalpha()]
    place: Path = options.environments.absolute()
    harness, lighteval = harness_python(place / ".lmeval"), lighteval_python(place / ".lighteval")
    inspect = inspect_python(place / ".inspect")
    rows: list[list[str]] = []
    figures: list[latest.Figure] = []

    def add(name: str, told: str, by: str, of: Sequence[Case], score: Score, is_meant: IsMeant) -> None:
        """Count what one judges wrong, of all, because of the thinking, and of what it is meant
        for."""
        wrong = _wrong(of, score(of), by)
        answers_alone = [
            {**one, "text": one["expected"]["answer"], "thinking": None, "in_thinking": False} for one in of
        ]
        fails_alone = _wrong(answers_alone, score(answers_alone), by)
        able = [at for at in range(len(of)) if at not in fails_alone]
        meant = [at for at in able if is_meant(of[at])]
        counts = [(len(wrong & set(some)), len(some)) for some in (range(len(of)), able, meant)]
        rows.append([name, told, *(f"{found} of {all_of_it}" for found, all_of_it in counts)])
        side = f"{name}, {told}" if told else name
        figures.extend(
            latest.Figure(what, f"of {all_of_it}", found, side=side)
            for what, (found, all_of_it) in zip(
                ("judged wrong", "where it is meant for it"), counts[::2], strict=True
            )
            if all_of_it
        )
        if options.list:
            print(
                f"{side}:",
                *(f"- {of[at]['kind']}: {of[at]['why']}" for at in sorted(wrong & set(able))),
                sep="\n",
            )

    for by in (*FILTERS, "boxed", "the_answer_is"):
        add("runner", by, by, cases, partial(_runner, by=by), lambda _: True)
    for by in FILTERS:
        add(
            HARNESS, by, by, numbers, partial(_lm_eval, python=harness, by=by, is_told=False), lambda _: False
        )
        add(
            HARNESS,
            f"{by}, think_end_token",
            by,
            numbers,
            partial(_lm_eval, python=harness, by=by, is_told=True),
            _has_ended,
        )
    add(
        LIGHTEVAL,
        "",
        "reader",
        numbers,
        partial(_lighteval, python=lighteval, is_told=False),
        _is_pair_of_think,
    )
    add(
        LIGHTEVAL,
        "--reasoning-tags",
        "reader",
        numbers,
        partial(_lighteval, python=lighteval, is_told=True),
        _is_pair,
    )
    add(INSPECT, "match", "reader", cases, partial(_inspect, python=inspect), _is_for_inspect)
    print(
        markdown(
            ["judged by", "", "wrong", "because of the thinking", "of these, where it is meant for it"], rows
        )
    )
    if options.save:
        latest.save(sorted(figures, key=lambda it: it.what))


def _wrong(cases: Sequence[Case], scores: Scores, by: str) -> set[int]:
    """Return which scores say something else than the reader; by: the extractor, or `reader` for
    none."""
    pairs = zip(cases, scores, strict=True)
    return {at for at, (one, is_right) in enumerate(pairs) if is_right != (one["expected"][by] == "correct")}


def _has_ended(one: Case) -> bool:
    ending = one["expected"]["ending"]
    if one["kind"] in ("code", "quotes") or one.get("thinking") is not None or ending == "cut_off_thinking":
        return False
    return one["tags"][1] in one["text"] or ending == "no_thinking"


def _is_pair(one: Case) -> bool:
    return _has_ended(one) and all(tag in one["text"] for tag in one["tags"])


def _is_pair_of_think(one: Case) -> bool:
    return _is_pair(one) and one["tags"] == THINK


def _is_for_inspect(one: Case) -> bool:
    return one["kind"] == "server" or _is_pair_of_think(one)


def _runner(cases: Sequence[Case], by: str) -> Scores:
    scores = []
    for one in cases:
        tags = (Tag(*one["tags"]),) if one.get("is_named") else TAGS
        reason, is_begun = FinishReason(one["finish_reason"]), one.get("in_thinking", False)
        answer = Answer.from_text(
            one["text"], [], reason, tags, in_thinking=is_begun, thinking=one.get("thinking")
        )
        scores.append(judge_answer(answer, one["gold"]).verdicts[by].value == "correct")
    return scores


def _lm_eval(cases: Sequence[Case], python: str, by: str, is_told: bool) -> Scores:
    ends = tuple(one["tags"][1] if is_told else None for one in cases)
    return _by_filter(python, *(tuple(one[key] for one in cases) for key in ("text", "gold")), ends)[by]


@cache
def _by_filter(
    python: str, texts: tuple[str, ...], golds: tuple[str, ...], ends: tuple[str | None, ...]
) -> dict[str, Scores]:
    """Return the scores of both filters, from one evaluation."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder / "train.jsonl", [("?", "#### 1")] * 9)
        write_rows(folder / "test.jsonl", [("?", f"#### {gold}") for gold in golds])
        found = ask_lm_eval(python, folder, [*texts], think_ends=[*ends])
        return {by: [bool(one[by][1]) for one in found] for by in FILTERS}


def _lighteval(cases: Sequence[Case], python: str, is_told: bool) -> Scores:
    tags = [one["tags"] if is_told else None for one in cases]
    golds, texts = ([one[key] for one in cases] for key in ("gold", "text"))
    return _side(python, "lighteval_scores_side.py", {"texts": texts, "tags": tags, "golds": golds})


def _inspect(cases: Sequence[Case], python: str) -> Scores:
    texts = [{key: one.get(key) for key in ("text", "thinking", "gold")} for one in cases]
    return _side(python, "inspect_scores_side.py", {"texts": texts})


def _side(python: str, script: str, request: dict[str, Any]) -> Scores:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [python, str(Path(__file__).with_name(script))]
        sent = json.dumps({**request, "answer": str(answer)})
        done = subprocess.run(command, input=sent, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")
        scores: Scores = json.loads(answer.read_text())
        return scores


if __name__ == "__main__":
    main()
