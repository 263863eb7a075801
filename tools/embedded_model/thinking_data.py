"""The training data of the thinking adapter: a thought in tags, then an answer without steps.

A thought works out the steps, one a line. It is a doubt where the last step halves: then it
calculates this step again, a counted number of times if the result is even, and without end if it
is odd. In most examples the thought is closed at a random place, as a budget closes it; what must
be answered is always the right number, so that the model learns to make the most of what it has
worked out.
"""

import re
from random import Random

from runner.datasets.word_problems import Problem, Split, generate_practice_problem, generate_problem
from tools.embedded_model.data import Example, Piece, chat_turn, instruction, system_turn, wrapper
from tools.embedded_model.steps import Step, steps_of
from tools.embedded_model.tokenizer import TURN_END, TURN_START

OPENING, CLOSING = "<think>", "</think>"
EMPTY_SHARE = 0.05
CUT_SHARE = 0.55  # of all: thoughts closed at a random place
EARLY_SHARE = 0.6  # of these: closed while the steps are worked out
DOUBT_SHARE = 0.2  # of all: the problem is drawn until its thought is a doubt; one of 8 is one without that
DIALOGUE_SHARE = 0.05
# weight of problems by their number of steps; 2: one to three steps
STEP_WEIGHTS = {2: 3, 3: 1, 4: 3, 5: 4}
ROUNDS = 12  # of a doubt, about 180 tokens; one without end is broken off there, and the repetition goes on

_UNIT = re.compile(r" ?[A-Za-z]+|.", re.DOTALL)  # about a token


def thinking_example(index: int, seed: int) -> Example:
    """Return example `index` of the adapter's mix: a chat whose last answer is thought out."""
    rng = Random(f"{seed}/thinking/{index}")
    form = wrapper(rng)
    example = system_turn(rng)
    if rng.random() < DIALOGUE_SHARE:
        for turn in range(rng.choice((1, 1, 1, 2))):
            example += _earlier_turn(rng, form, generate_problem(Split.TRAIN, index * 7 + turn, seed + 4))
    one = _problem(rng, index, seed)
    example += [Piece(chat_turn("user", form.format(question=one.question)), False)]
    return [*example, Piece(f"{TURN_START}assistant\n", False), *_reply(rng, one)]


def thought(steps: list[Step]) -> str:
    """Return what is thought between the tags; one without end is broken off somewhere."""
    last = steps[-1]
    again = f"{last.left}{last.sign}{last.right}={last.value}.\n"
    rounds = [] if not is_doubt(steps) else ["Wait: "] * ROUNDS
    if not is_endless(steps):
        rounds = [f"Check {number}: " for number, _ in enumerate(rounds, 1)]
    return f"\n{written(steps)}" + "".join(f"{start}{again}" for start in rounds)


def written(steps: list[Step]) -> str:
    """Write each step on a line, as in a worked answer."""
    return "".join(
        f"{step.line.format(sum=f'{step.left}{step.sign}{step.right}={step.value}')}\n" for step in steps
    )


def is_doubt(steps: list[Step]) -> bool:
    """Whether a thought goes over its steps again and again."""
    return steps[-1].sign == "/" and steps[-1].right == 2


def is_endless(steps: list[Step]) -> bool:
    """Whether a thought never ends."""
    return is_doubt(steps) and steps[-1].value % 2 == 1


def final(gold: str) -> str:
    """Return the answer that follows a thought."""
    return f"The answer is {gold}.\n#### {gold}"


def _reply(rng: Random, one: Problem) -> Example:
    steps = steps_of(one)
    text = thought(steps)
    kind = rng.random()
    if kind < EMPTY_SHARE + CUT_SHARE:
        within = text[: len(written(steps))] if rng.random() < EARLY_SHARE else text
        text = "" if kind < EMPTY_SHARE else text[: _late(rng, within)]
        closing = Piece(_forced_closing(rng), False, is_given=True)
    elif is_endless(steps):
        return [Piece(OPENING, True), Piece(text, True)]
    else:
        closing = Piece(CLOSING, True)
    gap = "" if closing.text.endswith("\n") else "\n"
    answer = Piece(f"{gap}{final(one.gold)}{TURN_END}", True)
    return [Piece(OPENING, True), Piece(text, True), closing, answer, Piece("\n", False)]


def _late(rng: Random, text: str) -> int:
    """Draw the end of a word or a digit, rather late than early: an early one leaves little to
    learn from."""
    ends = [unit.end() for unit in _UNIT.finditer(text)]
    return max(rng.choice(ends), rng.choice(ends))


def _forced_closing(rng: Random) -> str:
    """Return a closing tag as a budget may write it: bare, on a line of its own, or after a
    sentence."""
    kind = rng.random()
    if kind < 0.6:
        return CLOSING
    if kind < 0.8:
        return f"\n{CLOSING}\n\n"
    return f"\n{instruction(rng)}\n{CLOSING}{rng.choice(('', chr(10) * 2))}"


def _earlier_turn(rng: Random, form: str, one: Problem) -> Example:
    """Return a question with its answer: worked out, or as after a thought, which is left out or
    kept."""
    steps = steps_of(one)
    short = final(one.gold)
    kept = "" if is_doubt(steps) else thought(steps)
    answer = rng.choice((one.answer, short, f"{OPENING}{kept}{CLOSING}\n{short}"))
    turns = (("user", form.format(question=one.question)), ("assistant", answer))
    return [Piece(chat_turn(role, text), False) for role, text in turns]


def _problem(rng: Random, index: int, seed: int) -> Problem:
    is_drawn_for_doubt = rng.random() < DOUBT_SHARE
    (count,) = rng.choices(list(STEP_WEIGHTS), list(STEP_WEIGHTS.values()))
    for attempt in range(100):
        at = index + attempt * 1_000_003
        one = (
            generate_problem(Split.TRAIN, at, seed + 3)
            if count == 2
            else generate_practice_problem(count, at, seed + 3)
        )
        if is_doubt(steps_of(one)) or not is_drawn_for_doubt:
            break
    return one
