"""The training data of the team adapter: calls of a team's agents on generated problems, with good
and bad neighbours.

The prompts are those of the agents' task (domain `brief`). The neighbours' texts are generated from
a problem's steps, with the mistakes that the embedded model makes: a step left out or repeated, a
lost carry, and what follows from it.
"""

from random import Random

from runner.datasets.word_problems import Problem, Split, generate_practice_problem, generate_problem
from runner.options.agents import agent_prompts
from runner.options.agents.agent_prompts import AgentMessage
from runner.options.agents.keys import PromptStyle, Role
from runner.sandbox.sandbox import CodeOutcome, CodeStatus
from runner.sandbox.sandbox_child import format_answer
from runner_engine.sessions.base import Message
from tools.embedded_model.data import Example, Piece
from tools.embedded_model.steps import Step, steps_of
from tools.embedded_model.tokenizer import TURN_END, TURN_START

AGENTS = 4
DECISION_SHARE = 0.15
ALONE_SHARE = 0.4  # of the agents' calls: without neighbours
# of the neighbours' texts; one of these for each problem, since problems differ
RIGHT_SHARES = (0.35, 0.6, 0.85)
SAME_MISTAKE_SHARE = 0.4  # of mistakes that repeat another agent's: a team's agents share their weaknesses
# weight of problems by their number of steps; 2: one to three steps
STEP_WEIGHTS = {2: 1, 3: 2, 4: 3, 5: 4}


def written_out(steps: list[Step]) -> str:
    """Write steps as an agent that calculates by itself does."""
    lines = [step.line.format(sum=f"{step.left}{step.sign}{step.right}={step.value}") for step in steps]
    return "\n".join([*lines, f"The answer is {steps[-1].value}"])


def program(steps: list[Step]) -> str:
    """Write steps as a program; a step uses the variable of an earlier one if it continues from its
    value."""
    names: dict[int, str] = {}
    lines = []
    last: int | None = None
    for place, step in enumerate(steps):
        name = "answer" if place == len(steps) - 1 else "abcdefgh"[place]
        left, right = str(step.left), str(step.right)
        if step.left == last:
            left = names[last]  # the other number is the story's, even if it happens to be equal
        elif step.right == last:
            left, right = names.get(step.left, left), names[last]
        lines.append(f"{name}={left}{step.sign}{right}")
        names[step.value], last = name, step.value
    return "\n".join(lines)


def mistaken(rng: Random, steps: list[Step]) -> list[Step]:
    """Return steps with one mistake, and what follows from it."""
    kind = rng.random()
    place = rng.randrange(len(steps))
    if kind < 0.5 and len(steps) > 2:  # left out; the first step would leave a story without a beginning
        place = rng.randrange(1, len(steps))
        return _carried(
            [*steps[:place], *steps[place + 1 :]], place, steps[place].value, steps[place - 1].value
        )
    if kind < 0.6 and len(steps) > 2 and steps[-1].sign in "+-":  # repeated
        last = steps[-1]
        return _carried([*steps, last._replace(left=last.value)], len(steps) - 1, 0, 0)
    slipped = max(1, steps[place].value + rng.choice((-10, -2, -1, 1, 2, 10, 10, -10)))
    changed = [*steps[:place], steps[place]._replace(value=slipped), *steps[place + 1 :]]
    return _carried(changed, place + 1, steps[place].value, slipped)


def _carried(steps: list[Step], first: int, old: int, new: int) -> list[Step]:
    """Calculate the steps from `first` on again, with `new` instead of `old`."""
    changed = list(steps[:first])
    renamed = {old: new}
    for step in steps[first:]:
        left, right = (renamed.get(number, number) for number in (step.left, step.right))
        value = max(0, _calculated(left, step.sign, right))
        renamed[step.value] = value
        changed.append(step._replace(left=left, right=right, value=value))
    return changed


def _calculated(left: int, sign: str, right: int) -> int:
    if sign == "/":
        return left // max(1, right)
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def spoken(agent: int, steps: list[Step]) -> AgentMessage:
    """Return these steps as a message of an agent, in the form of its role."""
    role = agent_prompts.ROLES[agent]
    if not role.writes_code:
        return agent_prompts.make_agent_reply(agent, role, written_out(steps))
    text = program(steps)
    variables: dict[str, float] = {}
    try:
        exec(text, {}, variables)
    except ZeroDivisionError as error:
        return agent_prompts.make_agent_reply(
            agent, role, text, CodeOutcome(None, CodeStatus.code_failed, str(error))
        )
    value, _ = format_answer(variables["answer"])  # a program calculates without mistakes
    return agent_prompts.make_agent_reply(agent, role, text, CodeOutcome(value, CodeStatus.ok))


def verdicts(heard: tuple[AgentMessage, ...], gold: str) -> str:
    """Say whether each neighbour's answer is right, as the Inspector does before its own answer."""
    return " ".join(f"{one.agent + 1} is {'correct' if one.answer == gold else 'wrong'}." for one in heard)


def team_example(index: int, seed: int) -> Example:
    """Return example `index` of the team adapter's mix: one call of an agent, or of the deciding
    one."""
    rng = Random(f"{seed}/team/{index}")
    one = _problem(rng, index, seed)
    steps = steps_of(one)
    speakers = _Speakers(rng, steps)
    if rng.random() < DECISION_SHARE:
        messages = tuple(speakers.say(other) for other in range(AGENTS))
        return dialogue(
            agent_prompts.build_decision_messages(PromptStyle.brief, one.question, messages),
            written_out(steps),
        )
    agent = rng.randrange(AGENTS)
    spatial, temporal = _neighbours(rng, agent)
    now = tuple(speakers.say(other) for other in spatial)
    before = tuple(speakers.say(other) for other in temporal)
    role = agent_prompts.ROLES[agent]
    call = agent_prompts.build_agent_messages(role, PromptStyle.brief, one.question, now, before)
    return dialogue(call, reply(role, steps, now, before))


def reply(
    role: Role, steps: list[Step], now: tuple[AgentMessage, ...], before: tuple[AgentMessage, ...]
) -> str:
    """Return the reply that an agent should give."""
    if role.writes_code:
        return program(steps)
    if role is not Role.inspector or not (now or before):
        return written_out(steps)
    *lines, last = written_out(steps).splitlines()
    return "\n".join([*lines, verdicts((*now, *before), str(steps[-1].value)), last])


def dialogue(asked: tuple[Message, ...], answered: str) -> Example:
    """Return a call and its answer as an example."""
    turns = [Piece(f"{TURN_START}{turn.role}\n{turn.content}{TURN_END}\n", False) for turn in asked]
    return [
        *turns,
        Piece(f"{TURN_START}assistant\n", False),
        Piece(f"{answered}{TURN_END}", True),
        Piece("\n", False),
    ]


def _problem(rng: Random, index: int, seed: int) -> Problem:
    (count,) = rng.choices(list(STEP_WEIGHTS), list(STEP_WEIGHTS.values()))
    return (
        generate_problem(Split.TRAIN, index, seed + 2)
        if count == 2
        else generate_practice_problem(count, index, seed + 2)
    )


class _Speakers:
    """Draws the message of each agent on a problem: the right steps, a new mistake, or one made
    before."""

    def __init__(self, rng: Random, steps: list[Step]) -> None:
        self.rng, self.steps, self.mistakes = rng, steps, list[list[Step]]()
        self.right_share = rng.choice(RIGHT_SHARES)

    def say(self, agent: int) -> AgentMessage:
        if self.rng.random() < self.right_share:
            return spoken(agent, self.steps)
        if not self.mistakes or self.rng.random() >= SAME_MISTAKE_SHARE:
            self.mistakes.append(mistaken(self.rng, self.steps))
        return spoken(agent, self.rng.choice(self.mistakes))


def _neighbours(rng: Random, agent: int) -> tuple[list[int], list[int]]:
    """Draw the agents that an agent hears in this round, and those of the previous round."""
    if rng.random() < ALONE_SHARE:
        return [], []
    others = [other for other in range(AGENTS) if other != agent]
    spatial = sorted(rng.sample(others, rng.choice((0, 1, 1, 2, 3))))
    temporal = sorted(rng.sample(range(AGENTS), rng.choice((0, 0, 0, 0, 1, 2, 4))))
    return spatial, temporal
