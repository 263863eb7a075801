"""Our verdicts are those of lm-eval 0.4.13, which tests/support/ifeval_peer.py has recorded."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ifeval_peer import INSTRUCTIONS, make_responses

from runner.options.instructions.judging import check_response
from runner.options.instructions.kinds import KINDS, Instruction, InstructionPrompt

RECORDED = Path(__file__).with_name("lm_eval_verdicts.jsonl")
SENTENCES = "length_constraints:number_sentences"
# Punkt ends a sentence after the initial of a name that is also a word, and one after each mark of a word of marks
COUNTED_OTHERWISE = ("J. BROWN", "?!?!")


def read_recorded() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    head, *lines = map(json.loads, RECORDED.read_text().splitlines())
    return head, lines


def test_the_file_has_many_responses_to_each_kind_of_instruction() -> None:
    head, lines = read_recorded()
    assert head["versions"]["lm_eval"] == "0.4.13"
    assert [(kind, arguments) for kind, arguments in head["instructions"]] == [*INSTRUCTIONS]
    assert [line["response"] for line in lines] == make_responses()
    assert len(lines) >= 500
    followed = Counter(
        (kind, verdict)
        for line in lines
        for (kind, _), verdict in zip(INSTRUCTIONS, line["strict"], strict=True)
    )
    assert min(followed[kind, verdict] for kind in KINDS for verdict in "01") >= 10


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("part", range(8))
def test_verdicts_are_equal_but_for_some_counts_of_sentences(part: int) -> None:
    has_package = find_spec("langdetect") is not None
    places = [
        place
        for place, (kind, _) in enumerate(INSTRUCTIONS)
        if has_package or not KINDS[kind].needs_langdetect
    ]
    instructions = tuple(Instruction.from_arguments(*INSTRUCTIONS[place]) for place in places)
    different: Counter[str] = Counter()
    for line in read_recorded()[1][part::8]:
        ours = check_response(line["response"], InstructionPrompt("", "", instructions))
        for name, verdicts in (("strict", ours.strict), ("loose", ours.loose)):
            for place, verdict in zip(places, verdicts, strict=True):
                if verdict != bool(int(line[name][place])):
                    different[INSTRUCTIONS[place][0]] += 1
                    assert any(text in line["response"].upper() for text in COUNTED_OTHERWISE), line
    assert set(different) <= {SENTENCES}
    assert sum(different.values()) <= 14, "of 5,700 verdicts"
