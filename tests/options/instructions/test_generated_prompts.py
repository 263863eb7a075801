"""The embedded prompts: an answer can follow each of them, and they are always the same."""

from __future__ import annotations

from collections import Counter

import pytest
from following import follow
from raising import raises

from runner.options.instructions.generated_prompts import (
    are_compatible,
    generate_prompts,
    list_generated_kinds,
    load_wording,
)
from runner.options.instructions.judging import check_response
from runner.options.instructions.kinds import KINDS
from runner_base.errors import ConfigError

LEVELS = [1, 2, 3]


@pytest.mark.parametrize("count", [300, pytest.param(6000, marks=[pytest.mark.thorough, pytest.mark.slow])])
def test_an_answer_can_follow_all_instructions_of_each_prompt(count: int) -> None:
    for prompt in generate_prompts(count, LEVELS, 0, []):
        answer = follow(prompt)
        followed = check_response(answer, prompt)
        assert all(followed.strict), (prompt, answer, followed.strict)


def test_an_answer_that_follows_nothing_fails_all_but_what_forbids() -> None:
    """The control of the test above: most instructions fail, so the checks do not say yes to all."""
    failed = Counter(
        instruction.kind
        for prompt in generate_prompts(300, LEVELS, 0, [])
        for instruction in prompt.instructions
        if not instruction.is_followed("Hm, no.")
    )
    never = {"keywords:forbidden_words"}
    assert set(list_generated_kinds()) - failed.keys() == never


def test_kinds_and_levels_are_balanced() -> None:
    prompts = generate_prompts(330, LEVELS, 0, [])
    assert Counter(len(prompt.instructions) for prompt in prompts) == {1: 110, 2: 110, 3: 110}
    single = Counter(prompt.instructions[0].kind for prompt in prompts if len(prompt.instructions) == 1)
    assert set(single) == set(list_generated_kinds())
    assert set(single.values()) == {5}
    assert len({prompt.prompt for prompt in prompts}) > 320
    assert len({prompt.key for prompt in prompts}) == 330


def test_prompts_depend_on_their_number_and_the_seed_alone() -> None:
    prompts = generate_prompts(60, LEVELS, 0, [])
    assert generate_prompts(30, LEVELS, 0, []) == prompts[:30]
    assert generate_prompts(60, LEVELS, 1, []) != prompts
    assert generate_prompts(20, [3], 0, []) == [prompt for prompt in prompts if len(prompt.instructions) == 3]


def test_no_generated_kind_needs_a_package() -> None:
    assert {kind for kind, spec in KINDS.items() if spec.needs_langdetect} == KINDS.keys() - {
        *list_generated_kinds()
    }


def test_excluded_kinds_are_not_drawn() -> None:
    excluded = ["punctuation:no_comma", "keywords:existence"]
    prompts = generate_prompts(200, LEVELS, 0, excluded)
    assert not {instruction.kind for prompt in prompts for instruction in prompt.instructions} & {*excluded}


def test_kinds_that_cannot_be_combined_are_one_message() -> None:
    left = ["detectable_format:constrained_response", "detectable_format:json_format"]
    excluded = [kind for kind in list_generated_kinds() if kind not in left]
    assert len(generate_prompts(4, [1], 0, excluded)) == 4
    with raises(ConfigError, "conflict", "task.exclude_kinds"):
        generate_prompts(4, [1, 2], 0, excluded)


def test_compatibility_is_symmetric() -> None:
    kinds = list_generated_kinds()
    assert all(are_compatible(a, b) == are_compatible(b, a) for a in kinds for b in kinds)
    assert not any(are_compatible(kind, kind) for kind in kinds)


def test_no_keyword_is_part_of_other_words_of_an_answer() -> None:
    wording = load_wording()
    others = [*wording.first_words, *wording.end_phrases, *wording.markers]
    for word in wording.keywords:
        assert not [text for text in (*wording.keywords, *others) if word in text.lower() and word != text]
    rare = {*wording.rare_letters}
    assert not rare & {*"".join([*wording.keywords, *others]).lower()}
