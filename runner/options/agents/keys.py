"""What a team of agents is, and how its graph is learned: the keys of task=agents."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import ClassVar

from runner.config.extractors import Gold
from runner.config.questions import MAX_SAMPLES, QuestionsConfig, check_answers_differ
from runner_base import (
    HASHED,
    UNLESS_DEFAULT,
    ConfigError,
    Inert,
    Takes,
    above,
    check,
    filled,
    least,
    setting,
    within,
)
from runner_engine import GenerationConfig

DECISION = "decision"  # the name of the deciding agent: in ids, in rows, in edges


class Mode(StrEnum):
    """Who may hear whom in a team of agents: the topology of its graph."""

    direct_answer = "direct_answer"
    full_connected = "full_connected"
    random = "random"
    chain = "chain"
    debate = "debate"
    layered = "layered"
    star = "star"


class DecisionMethod(StrEnum):
    """Where a team's answer comes from: an extra agent that reads all others, the majority, or the
    last agent."""

    final_refer = "final_refer"
    majority_vote = "majority_vote"
    direct = "direct"


class Baseline(StrEnum):
    """What is subtracted from a question's reward while a graph is trained: nothing, or the
    iteration's mean."""

    none = "none"
    mean = "mean"


class Method(StrEnum):
    """How a team's graph is learned: not at all, in the runner's own way, or as a publication does
    it."""

    none = "none"
    runner = "runner"
    agent_prune = "agent_prune"
    agent_prune_code = "agent_prune_code"


class Role(StrEnum):
    """The role of an agent; a team's agents take the roles in this order, repeatedly."""

    math_solver = "math_solver"
    mathematical_analyst = "mathematical_analyst"
    programming_expert = "programming_expert"
    inspector = "inspector"

    @property
    def words(self) -> str:
        """Its name as people read it: Math Solver."""
        return self.value.replace("_", " ").title()

    @property
    def writes_code(self) -> bool:
        """Whether its reply is a program, which assigns its answer."""
        return self is Role.programming_expert

    @property
    def hears_numbers(self) -> bool:
        """Whether it gets only the numbers of its neighbours, and not their texts."""
        return self is Role.math_solver


class Domain(StrEnum):
    """The prompts of a team: long ones with worked examples, or short ones for small models."""

    gsm8k = "gsm8k"
    brief = "brief"


OF_SOME_METHODS: dict[
    str, tuple[str, set[Method]]
] = {  # why the others refuse a key, and the methods that have it
    "baseline": ("its loss has no baseline", {Method.none, Method.runner}),
    "nuclear_norm": ("its nuclear norms have weight 1", {Method.none, Method.runner}),
    "imp_per_iterations": (
        "it prunes once, after the last iteration",
        {Method.none, Method.runner, Method.agent_prune_code},
    ),
    "delta": ("its loss has no such term", {Method.agent_prune, Method.agent_prune_code}),
}
MAX_AGENTS = 64  # of one team: a picture of more shows nothing, and each question would be 65 calls or more
MAX_ROUNDS = 100  # each agent reads all earlier answers, so a discussion fills the context much sooner
RATE = Takes(lambda value: 0 <= value < 1, "must lie in [0, 1); 0: no pruning")
INNER = Takes(lambda value: 0 < value < 1, "must lie between 0 and 1: at either end nothing could be learned")


@dataclass
class AgentsConfig(QuestionsConfig):
    """A team of agents answers each question; who hears whom is a graph, which training can
    prune."""

    module: ClassVar[str] = "runner.options.agents.task"
    name: ClassVar[str] = "agents"
    gives_verdicts: ClassVar[bool] = True
    mode: Mode = Mode.full_connected
    agents: int = setting(4, takes=within(1, MAX_AGENTS))
    roles: list[Role] | None = None
    # with lora=several: which adapter a role's calls are computed with; a role without one: the base
    role_adapters: dict[str, str] = field(default_factory=dict, metadata={"counts": UNLESS_DEFAULT})
    domain: Domain = Domain.gsm8k
    num_rounds: int = setting(1, takes=within(1, MAX_ROUNDS))
    decision_method: DecisionMethod = DecisionMethod.final_refer
    optimized_spatial: bool = False
    optimized_temporal: bool = False
    graph: str | None = setting(
        None, HASHED, filled("give a graph.json that an earlier job has saved, or null")
    )
    train_split: str = setting("train", takes=filled("name a split of the data"))
    train_offset: int = setting(
        0, Inert("says which questions train the graph; the SHA-256 of these counts instead"), least(0)
    )
    batch_size: int = setting(4, takes=least(1))
    num_iterations: int = setting(10, takes=least(1))
    imp_per_iterations: int = setting(5, takes=least(1))
    pruning_rate: float = setting(0.25, takes=RATE)
    learning_rate: float = setting(0.1, takes=above(0))
    initial_probability: float = setting(0.5, takes=INNER)
    baseline: Baseline = Baseline.none
    nuclear_norm: float = setting(0.0, takes=least(0))
    method: Method = setting(Method.runner, UNLESS_DEFAULT)
    draw: bool | None = setting(None, UNLESS_DEFAULT)
    delta: float = setting(0.1, UNLESS_DEFAULT, least(0))
    code_timeout_s: float = setting(10.0, takes=above(0))
    samples: int = setting(1, UNLESS_DEFAULT, within(1, MAX_SAMPLES))

    def __post_init__(self) -> None:
        super().__post_init__()
        need = f"give one role or more of {', '.join(Role)}, or null for all of them in this order"
        check(self.roles is None or bool(self.roles), "task.roles", self.roles, need)
        known = (*Role, DECISION)
        for role in self.role_adapters:
            check(
                role in known,
                "task.role_adapters",
                role,
                f"give roles: {', '.join(known)}",
                code="unknown_choice",
            )
        need = "agents answer with numbers or letters: use task=gsm8k task.extractor=math"
        check(self.gold is not Gold.expression, "task.gold", self.gold.value, need, code="unsupported")
        self._check_samples()
        for key in ("optimized_spatial", "optimized_temporal"):
            is_optimized = getattr(self, key)
            need = "task.mode=direct_answer has no edges to optimize: use another task.mode, or leave it out"
            check(
                not (is_optimized and self.mode is Mode.direct_answer),
                f"task.{key}",
                is_optimized,
                need,
                code="conflict",
            )
            need = f"task.graph={self.graph} is used as it is: leave one of the two out"
            check(
                not (is_optimized and self.graph is not None),
                f"task.{key}",
                is_optimized,
                need,
                code="conflict",
            )
        if self.optimized_spatial and self.mode is Mode.debate:
            raise ConfigError(
                "in task.mode=debate no agent hears another in its own round, so there is "
                "no such edge: use task.optimized_temporal=true, another task.mode, or leave it out",
                key="task.optimized_spatial",
                value="true",
                code="conflict",
            )
        if self.nuclear_norm and not self.optimized_spatial:
            raise ConfigError(
                f"task.nuclear_norm={self.nuclear_norm} is a penalty on learned spatial edges: give "
                "task.optimized_spatial=true too, or leave it out",
                code="no_effect",
            )
        if self.optimized_temporal and self.num_rounds == 1:
            raise ConfigError(
                "temporal edges lead from one round to the next, and task.num_rounds=1: "
                "use task.num_rounds=2 or more, or leave it out",
                key="task.optimized_temporal",
                value="true",
                code="conflict",
            )
        self._check_method()

    def _check_method(self) -> None:
        """Reject keys that the method does not have, and a method without edges to learn."""
        defaults, has_random = (
            {item.name: item.default for item in fields(self)},
            self.optimized_spatial or self.optimized_temporal,
        )
        for key, (why, methods) in OF_SOME_METHODS.items():
            value, default = getattr(self, key), defaults[key]
            need = f"with task.method={self.method} {why}: leave it out (the default is {default})"
            check(self.method in methods or value == default, f"task.{key}", value, need, code="no_effect")
        if self.method not in (Method.none, Method.runner):
            need = f"task.graph={self.graph} is used as it is: leave one of the two out; task.draw says how"
            check(self.graph is None, "task.method", self.method, need, code="conflict")
            need = "it learns edges, and none is to be learned: give task.optimized_spatial=true"
            need = f"{need}, task.optimized_temporal=true or both"
            check(has_random, "task.method", self.method, need, code="missing")
        need = "no edge has a probability: give task.optimized_spatial=true, or a task.graph, or leave it out"
        check(
            not self.draw or has_random or self.graph is not None,
            "task.draw",
            self.draw,
            need,
            code="no_effect",
        )

    def _check_samples(self) -> None:
        """Reject several samples of a team."""
        if not self.is_sampled:
            return
        need = "one agent is asked several times: give task.mode=direct_answer"
        check(self.mode is Mode.direct_answer, "task.samples", self.samples, need, code="conflict")
        need = "samples are of one round: leave it out, or leave out task.samples"
        check(self.num_rounds == 1, "task.num_rounds", self.num_rounds, need, code="conflict")
        need = "of several samples the last one is no better than the first: use majority_vote or final_refer"
        check(
            self.decision_method is not DecisionMethod.direct,
            "task.decision_method",
            self.decision_method,
            need,
            code="conflict",
        )

    def check_beside(self, generation: GenerationConfig) -> None:
        """Raise ConfigError where several samples would all be the same."""
        if self.is_sampled:
            check_answers_differ(f"task.samples={self.samples}", generation)

    @property
    def adapters_named(self) -> list[str]:
        return [*self.role_adapters.values()]

    def adapter_of(self, role: Role | None) -> str | None:
        """Return the adapter of a role's calls, or of the decision's; None: the base."""
        return self.role_adapters.get(DECISION if role is None else role.value)

    @property
    def asks_in_chat(self) -> bool:
        """Agents have roles, which are turns of a chat."""
        return True

    @property
    def is_sampled(self) -> bool:
        """Whether one agent answers each question several times."""
        return self.samples > 1

    @property
    def is_trained(self) -> bool:
        """Whether the graph is learned before it is used."""
        return self.method is not Method.none and (self.optimized_spatial or self.optimized_temporal)

    @property
    def draws(self) -> bool:
        """Whether the edges of each scored question are drawn, where they have probabilities."""
        return self.method is Method.agent_prune_code if self.draw is None else self.draw

    @property
    def iterations(self) -> int:
        """How many iterations the training has."""
        return self.num_iterations if self.is_trained else 0

    @property
    def train_questions(self) -> int:
        """How many questions the training asks."""
        return self.batch_size * self.iterations

    @property
    def subject(self) -> str:
        """Return topology and split."""
        how = " pruned" if self.is_trained else " drawn" if self.draws and self.graph is None else ""
        samples = f" x{self.samples}" if self.is_sampled else ""
        return f"{self.mode}{samples}{how} {self.split}"

    @property
    def questions(self) -> int:
        """Return how many calls all questions take."""
        team = self.samples if self.mode is Mode.direct_answer else self.agents
        calls = team * self.num_rounds + (self.decision_method is DecisionMethod.final_refer)
        return (super().questions + self.train_questions) * calls


OF_QUESTIONS = {item.name for item in fields(QuestionsConfig)}
# say what a team is
OF_TEAM = [item.name for item in fields(AgentsConfig) if item.name not in OF_QUESTIONS]
