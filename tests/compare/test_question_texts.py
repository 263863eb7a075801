"""Questions of two tools are found by their texts, and by nothing else."""

from __future__ import annotations

from random import Random

from runner_compare.features.across_tools.question_texts import match_questions, normalize_text

RAW = [f"{name} has {at + 3} apples and buys {2 * at + 5} more. How many apples has {name}?" for at, name in
       enumerate(["Ann", "Ben", "Cem", "Dana", "Eli", "Fay", "Gus", "Hana", "Ida", "Jon"])]  # fmt: skip


def texts(values: list[str]) -> dict[tuple[int, str, str], str]:
    return {(at, f"id {at}", ""): value for at, value in enumerate(values)}


def pairs(ours: list[str], theirs: list[str]) -> dict[int, int]:
    return {one[0]: other[0] for one, other in match_questions(texts(ours), texts(theirs)).items()}


def test_a_question_is_found_in_the_prompt_that_ends_with_it_and_not_where_it_is_an_example() -> None:
    draw, order = Random(4), [*range(10)]
    draw.shuffle(order)
    prompts = []
    for at in order:
        examples = "\n\n".join(
            f"Question: {RAW[it]}\nAnswer: 12" for it in draw.sample(range(10), 4) if it != at
        )
        prompts.append(f"{examples}\n\nQuestion: {RAW[at]}\nAnswer:")
    found = {at: place for place, at in enumerate(order)}
    assert pairs(RAW, prompts) == found
    assert pairs(prompts, RAW) == {place: at for at, place in found.items()}, "whichever side has the prompts"


def test_what_two_tools_put_around_all_of_their_questions_is_left_out() -> None:
    ours = [f"Solve this problem.\n\n{text}\n\nEnd with ANSWER: number" for text in RAW]
    theirs = [f"{text.upper()}\nThink step by step." for text in reversed(RAW)]
    assert pairs(ours, theirs) == {at: 9 - at for at in range(10)}


def test_equal_ids_with_other_texts_are_not_paired_and_neither_are_texts_that_occur_twice() -> None:
    assert pairs(RAW, [text.replace("apples", "pears") for text in RAW]) == {}
    assert pairs([*RAW, RAW[0]], RAW) == {at: at for at in range(1, 10)}
    assert pairs(RAW, [*RAW, RAW[3]]) == {at: at for at in range(10) if at != 3}
    assert pairs([], RAW) == pairs(RAW, []) == {}


def test_normalized_texts() -> None:
    assert normalize_text("Question:  What\u00a0is\n2+2?\nAnswer:") == "what is 2+2?"
    assert normalize_text('He said \\"yes\\"\\nOk?') == 'he said "yes" ok?'
