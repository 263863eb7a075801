"""The training mix: problems and drills, in the many forms of prompts that the model must
understand.

An example is a list of pieces (text, is_answer): answers weigh 1 in the loss, the rest 0.2, what is
only given 0.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from runner.datasets.word_problems import Problem, Split, generate_practice_problem, generate_problem
from tools.embedded_model.tokenizer import TURN_END, TURN_START

SYSTEM_PROMPT = "You are a careful assistant who solves math word problems."
TASK_WRAPPER = "{question}\n\nSolve it step by step. End with '#### ' and the number."

DRILL_SHARE = 0.20
TEXT_SHARE = 0.05  # `Question: … Answer:` blocks with no chat roles, of the word problems
MULTI_TURN_SHARE = 0.14
SYSTEM_SHARE = 0.25
FINAL_ONLY_SHARE = 0.06
HINT_SHARE = 0.06

WRAPPERS = (
    "Solve this problem.\n\n{question}",
    "{question}\nLet's think step by step.",
    "Question: {question}\nAnswer:",
    "Question: {question}",
    "Problem: {question}\nSolution:",
    "Q: {question}\nA:",
    "{question} Show your work.",
    "{question}\n\nShow each step and put the final answer after ####.",
    "Please solve this math problem step by step: {question}",
    "{question}\n\nReason step by step, then give the final answer.",
    "{question}\n\nSolve the problem. Write the final number after '#### '.",
    "Here is a problem. Solve it carefully.\n\n{question}",
)
FINAL_ONLY_WRAPPERS = (
    "{question}\n\nGive only the final answer.",
    "{question}\nAnswer with the number only, without steps.",
    "{question}\n\nFinal answer only.",
)
SYSTEM_PROMPTS = (
    SYSTEM_PROMPT,
    SYSTEM_PROMPT,
    "You are a helpful assistant.",
    "You are a careful math assistant.",
    "You solve math word problems step by step.",
    "You are a math teacher. Solve the problem and explain each step.",
    "You are one of several solvers. Solve the problem on your own.",
    "You are a critic. Check the solution and give the correct answer.",
    "You are a planner. Plan the steps and then solve the problem.",
)
HINTS = (
    "Hint: another solver answered {guess}.",
    "Another agent answered {guess}.",
    "Hint: the answer may be {guess}.",
    "A first attempt gave #### {guess}. Check it and solve the problem again.",
    "Other answers: {guess}. They may be wrong.",
)
ATTEMPTS = (
    "Another solver wrote:\n{attempt}\n\nCheck it and give the correct solution.",
    "Previous answer:\n{attempt}\n\nReview it, then solve the problem.",
    "Solution from agent 1:\n{attempt}\n\nIs it right? Write your own solution.",
)
# Words for random instructions: the model must learn to solve a problem whatever surrounds it.
_WORD_TEXT = (
    "please solve the following math problem step by step carefully and show your work explain each "
    "think about answer result number final write give find compute calculate check verify review "
    "plan reason steps solution question task before after then first next last with without from "
    "into for you are a an expert teacher student agent critic helper assistant careful short clear "
    "brief long exact correct wrong simple detailed agree disagree vote debate discuss improve "
    "refine summarize combine other another previous answers ideas let us need must should can will "
    "do not make sure that it is this of to in on at end start line format use follow read "
    "understand break down parts sub problem team round role your own words explain why how what "
    "when which who all any some every as one two three best most more less good help user text"
)
WORDS = _WORD_TEXT.split()


class Piece(NamedTuple):
    """A part of an example: its text, and whether the model should generate it."""

    text: str
    is_answer: bool
    is_given: bool = False  # stands there, and must not be learnt at all: a mistake, for example


Example = list[Piece]
ProblemAt = Callable[[int], Problem]  # turn of a dialogue -> its problem


def base_example(index: int, seed: int) -> Example:
    """Return training example `index` of the base model's mix."""
    rng = Random(f"{seed}/base/{index}")
    if rng.random() < DRILL_SHARE:
        question, answer = _drill(rng)
        return _chat(rng, [(question, answer)])
    # Seven: more than the six turns of the longest dialogue, and coprime to the number of slots, so
    # that all are used.
    return _word_example(rng, lambda turn: generate_problem(Split.TRAIN, index * 7 + turn, seed))


def five_step_example(index: int, seed: int) -> Example:
    """Return example `index` of the adapters' mix: mostly five steps, some fewer to prevent
    forgetting."""
    rng = Random(f"{seed}/five/{index}")
    if rng.random() < 0.75:
        return _word_example(rng, lambda turn: generate_practice_problem(5, index * 7 + turn, seed))
    return _word_example(rng, lambda turn: generate_problem(Split.TRAIN, index * 7 + turn, seed + 1))


def task_prompt(question: str) -> Example:
    """Return the prompt of the card's scores: zero-shot chat, no system message."""
    return [
        Piece(chat_turn("user", TASK_WRAPPER.format(question=question)), False),
        Piece(f"{TURN_START}assistant\n", False),
    ]


def _word_example(rng: Random, problem_at: ProblemAt) -> Example:
    kind = rng.random()
    if kind < TEXT_SHARE:
        return _text_blocks(rng, problem_at)
    if kind < TEXT_SHARE + MULTI_TURN_SHARE:
        form = wrapper(rng)
        turns = [problem_at(turn) for turn in range(rng.choice((2, 2, 2, 2, 3, 3, 3, 5)))]
        return _chat(rng, [(form.format(question=p.question), p.answer) for p in turns])
    one = problem_at(0)
    if kind < TEXT_SHARE + MULTI_TURN_SHARE + FINAL_ONLY_SHARE:
        question = rng.choice(FINAL_ONLY_WRAPPERS).format(question=one.question)
        return _chat(rng, [(question, f"#### {one.gold}")])
    question = wrapper(rng).format(question=one.question)
    if kind < TEXT_SHARE + MULTI_TURN_SHARE + FINAL_ONLY_SHARE + HINT_SHARE:
        hint = _hint(rng, one)
        question = f"{question}\n\n{hint}" if rng.random() < 0.7 else f"{hint}\n\n{question}"
    return _chat(rng, [(question, one.answer)])


def wrapper(rng: Random) -> str:
    """Pick the form of a prompt; most often that of the evaluation task."""
    kind = rng.random()
    if kind < 0.40:
        return TASK_WRAPPER
    if kind < 0.55:
        return "{question}"
    if kind < 0.77:
        return rng.choice(WRAPPERS)
    before, after = instruction(rng), instruction(rng)
    gap = rng.choice((" ", "\n", "\n\n"))
    return rng.choice(
        (f"{before}{gap}{{question}}", f"{{question}}{gap}{after}", f"{before}{gap}{{question}}{gap}{after}")
    )


def instruction(rng: Random) -> str:
    """Make one to three sentences of random words, so that no wording is unfamiliar."""
    sentences = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        words = rng.choices(WORDS, k=rng.randint(2, 10))
        if rng.random() < 0.15:  # a word that is in no list
            words[rng.randrange(len(words))] = "".join(
                rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8))
            )
        sentences.append(" ".join(words).capitalize() + rng.choice((".", ".", ".", ":", "!")))
    return " ".join(sentences)


def _hint(rng: Random, one: Problem) -> str:
    """Another solver's answer, right half the time: the model should read it and never copy it."""
    guess = one.gold
    if rng.random() < 0.5:
        guess = str(max(1, int(one.gold) + rng.choice((-10, -3, -2, -1, 1, 2, 5, 10, 20))))
    if rng.random() < 0.6:
        return rng.choice(HINTS).format(guess=guess)
    attempt = one.answer.replace(f"={one.gold} ", f"={guess} ").replace(f"#### {one.gold}", f"#### {guess}")
    return rng.choice(ATTEMPTS).format(attempt=attempt)


def system_turn(rng: Random) -> Example:
    """Begin a chat: mostly with nothing, else with a system message."""
    if rng.random() >= SYSTEM_SHARE:
        return []
    return [
        Piece(
            chat_turn("system", rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.6 else instruction(rng)), False
        )
    ]


def _chat(rng: Random, turns: list[tuple[str, str]]) -> Example:
    example = system_turn(rng)
    for question, answer in turns:
        example.append(Piece(chat_turn("user", question), False))
        example.append(Piece(f"{TURN_START}assistant\n", False))
        example.append(Piece(f"{answer}{TURN_END}", True))
        example.append(Piece("\n", False))
    return example


def _text_blocks(rng: Random, problem_at: ProblemAt) -> Example:
    """Few-shot text with no roles; the last answer ends with eos, an earlier one with the next
    question."""
    blocks = [problem_at(turn) for turn in range(rng.choice((1, 2, 2, 3, 4, 6)))]
    example: Example = []
    for number, one in enumerate(blocks):
        gap = "\n\n" if number else ""
        example.append(Piece(f"{gap}Question: {one.question}\nAnswer:", False))
        example.append(Piece(f" {one.answer}", True))
    example.append(Piece(TURN_END, True))
    return example


def _drill(rng: Random) -> tuple[str, str]:
    """Plain arithmetic in the ranges of the problems: learnt sooner than inside a story."""
    sums = [_sum(rng) for _ in range(rng.randint(3, 7))]
    return "Compute: " + ", ".join(a for a, _ in sums), " ".join(f"{a}={b}." for a, b in sums)


def _sum(rng: Random) -> tuple[str, int]:
    kind = rng.choice("+++---*/")  # carrying and borrowing take longest to learn
    if kind == "+":
        a, b = rng.randint(2, rng.choice((60, 120, 300))), rng.randint(2, 60)
        return (f"{a}+{b}", a + b) if rng.random() < 0.8 else (f"{b}+{a}", a + b)
    if kind == "-":
        b, c = rng.randint(2, 60), rng.randint(1, rng.choice((60, 120, 300)))
        return f"{b + c}-{b}", c
    if kind == "*":
        a, b = rng.randint(2, 9), rng.randint(2, rng.choice((25, 25, 100)))
        a = 2 if b > 25 else a
        return (f"{a}*{b}", a * b) if rng.random() < 0.5 and b <= 25 else (f"{b}*{a}", a * b)
    b = rng.choice((2, 2, 2, 3, 4, 5, 6, 7, 8, 9))
    c = rng.randint(2, rng.choice((30, 120)) if b == 2 else 30)
    return f"{b * c}/{b}", c


def chat_turn(role: str, content: str) -> str:
    """Return a message in the form of the chat template."""
    return f"{TURN_START}{role}\n{content}{TURN_END}\n"
