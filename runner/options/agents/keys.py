"""Config keys of task=agents: the team of agents, and the training of its communication graph."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import ClassVar

from runner.config.extractors import GoldKind
from runner.config.questions import MAX_SAMPLES, QuestionsConfig, reject_greedy_duplicates
from runner_base import (
    HASHED,
    UNLESS_DEFAULT,
    ConfigError,
    NotInIdentity,
    ValueConstraint,
    at_least,
    check_value,
    config_field,
    greater_than,
    in_range,
    not_blank,
)
from runner_engine import GenerationConfig

DECISION = "decision"  # the name of the deciding agent: in ids, in rows, in edges


class Topology(StrEnum):
    """Topology of a team's graph, which defines the agents whose replies an agent can read."""

    direct_answer = "direct_answer"
    full_connected = "full_connected"
    random = "random"
    chain = "chain"
    debate = "debate"
    layered = "layered"
    star = "star"


class DecisionMethod(StrEnum):
    """Method by which a team decides on one answer."""

    final_refer = "final_refer"
    majority_vote = "majority_vote"
    direct = "direct"


class Baseline(StrEnum):
    """Reward baseline of the policy gradient: none, or the mean reward of the iteration."""

    none = "none"
    mean = "mean"


class TrainingMethod(StrEnum):
    """Method that trains a team's graph: none, the runner's own method, or a published method."""

    none = "none"
    runner = "runner"
    agent_prune = "agent_prune"
    agent_prune_code = "agent_prune_code"


class Role(StrEnum):
    """Role of an agent. A team's agents get the roles in this order."""

    math_solver = "math_solver"
    mathematical_analyst = "mathematical_analyst"
    programming_expert = "programming_expert"
    inspector = "inspector"

    @property
    def words(self) -> str:
        """The role's name for display, such as Math Solver."""
        return self.value.replace("_", " ").title()

    @property
    def writes_code(self) -> bool:
        """Whether agents in this role reply with a Python program that assigns the answer to a variable."""
        return self is Role.programming_expert

    @property
    def hears_numbers(self) -> bool:
        """Whether agents in this role see only the numbers from other agents' replies."""
        return self is Role.math_solver


class PromptStyle(StrEnum):
    """Style of a team's prompts: long with worked examples, or short for small models."""

    gsm8k = "gsm8k"
    brief = "brief"


OF_SOME_METHODS: dict[
    str, tuple[str, set[TrainingMethod]]
] = {  # why the others refuse a key, and the methods that have it
    "baseline": ("its loss has no baseline", {TrainingMethod.none, TrainingMethod.runner}),
    "nuclear_norm": ("its nuclear norms have weight 1", {TrainingMethod.none, TrainingMethod.runner}),
    "imp_per_iterations": (
        "this method prunes only once, after the last iteration",
        {TrainingMethod.none, TrainingMethod.runner, TrainingMethod.agent_prune_code},
    ),
    "delta": ("its loss has no such term", {TrainingMethod.agent_prune, TrainingMethod.agent_prune_code}),
}
MAX_AGENTS = 64  # of one team: a picture of more shows nothing, and each question would be 65 calls or more
MAX_ROUNDS = 100  # each agent reads all earlier answers, so a discussion fills the context much sooner
RATE = ValueConstraint(lambda value: 0 <= value < 1, "must be at least 0 and less than 1. 0 disables pruning")
INNER = ValueConstraint(
    lambda value: 0 < value < 1,
    "must lie strictly between 0 and 1: edges with probability 0 or 1 cannot be learned",
)


@dataclass
class AgentsConfig(QuestionsConfig):
    """Config of task=agents: a team of agents answers each question. Training can prune the team's
    communication graph.
    """

    module: ClassVar[str] = "runner.options.agents.task"
    name: ClassVar[str] = "agents"
    gives_verdicts: ClassVar[bool] = True
    mode: Topology = Topology.full_connected
    agents: int = config_field(4, constraint=in_range(1, MAX_AGENTS))
    roles: list[Role] | None = None
    # with lora=several: which adapter a role's calls are computed with; a role without one: the base
    role_adapters: dict[str, str] = field(default_factory=dict, metadata={"counts": UNLESS_DEFAULT})
    domain: PromptStyle = PromptStyle.gsm8k
    num_rounds: int = config_field(1, constraint=in_range(1, MAX_ROUNDS))
    decision_method: DecisionMethod = DecisionMethod.final_refer
    optimized_spatial: bool = False
    optimized_temporal: bool = False
    graph: str | None = config_field(
        None, HASHED, not_blank("give a graph.json that an earlier job has saved, or null")
    )
    train_split: str = config_field("train", constraint=not_blank("give the name of a split of the data"))
    train_offset: int = config_field(
        0,
        NotInIdentity("the job id contains the SHA-256 of the training questions, not this key"),
        at_least(0),
    )
    batch_size: int = config_field(4, constraint=at_least(1))
    num_iterations: int = config_field(10, constraint=at_least(1))
    imp_per_iterations: int = config_field(5, constraint=at_least(1))
    pruning_rate: float = config_field(0.25, constraint=RATE)
    learning_rate: float = config_field(0.1, constraint=greater_than(0))
    initial_probability: float = config_field(0.5, constraint=INNER)
    baseline: Baseline = Baseline.none
    nuclear_norm: float = config_field(0.0, constraint=at_least(0))
    method: TrainingMethod = config_field(TrainingMethod.runner, UNLESS_DEFAULT)
    draw: bool | None = config_field(None, UNLESS_DEFAULT)
    delta: float = config_field(0.1, UNLESS_DEFAULT, at_least(0))
    code_timeout_s: float = config_field(10.0, constraint=greater_than(0))
    samples: int = config_field(1, UNLESS_DEFAULT, in_range(1, MAX_SAMPLES))

    def __post_init__(self) -> None:
        super().__post_init__()
        need = f"the list is empty. Give roles from {', '.join(Role)}, or null for all roles"
        check_value(self.roles is None or bool(self.roles), "task.roles", self.roles, need)
        known = (*Role, DECISION)
        for role in self.role_adapters:
            check_value(
                role in known,
                "task.role_adapters",
                role,
                f"give roles: {', '.join(known)}",
                code="unknown_choice",
            )
        need = "agents answer with numbers or letters. Use task=gsm8k task.extractor=math"
        check_value(
            self.answer_type is not GoldKind.expression,
            "task.answer_type",
            self.answer_type.value,
            need,
            code="unsupported",
        )
        self._reject_multiple_samples_for_teams()
        for key in ("optimized_spatial", "optimized_temporal"):
            is_optimized = getattr(self, key)
            need = "task.mode=direct_answer has no edges to optimize. Use another task.mode, or omit this key"
            check_value(
                not (is_optimized and self.mode is Topology.direct_answer),
                f"task.{key}",
                is_optimized,
                need,
                code="conflict",
            )
            need = f"task.graph={self.graph} has fixed edges. Remove task.graph or this key"
            check_value(
                not (is_optimized and self.graph is not None),
                f"task.{key}",
                is_optimized,
                need,
                code="conflict",
            )
        if self.optimized_spatial and self.mode is Topology.debate:
            raise ConfigError(
                (
                    "in task.mode=debate no agent reads replies of the same round. Use "
                    "task.optimized_temporal=true or another task.mode"
                ),
                key="task.optimized_spatial",
                value="true",
                code="conflict",
            )
        if self.nuclear_norm and not self.optimized_spatial:
            raise ConfigError(
                (
                    f"task.nuclear_norm={self.nuclear_norm} penalizes learned spatial edges. Give "
                    "task.optimized_spatial=true too, or omit task.nuclear_norm"
                ),
                code="no_effect",
            )
        if self.optimized_temporal and self.num_rounds == 1:
            raise ConfigError(
                (
                    "temporal edges connect two rounds, but task.num_rounds=1. Use "
                    "task.num_rounds=2 or more, or omit this key"
                ),
                key="task.optimized_temporal",
                value="true",
                code="conflict",
            )
        self._check_training_keys()

    def _check_training_keys(self) -> None:
        """Raise ConfigError for config keys that the training method does not use, or if no edge can be
        trained.
        """
        defaults, has_random = (
            {item.name: item.default for item in fields(self)},
            self.optimized_spatial or self.optimized_temporal,
        )
        for key, (why, methods) in OF_SOME_METHODS.items():
            value, default = getattr(self, key), defaults[key]
            need = f"has no effect with task.method={self.method}: {why}. Remove it (default: {default})"
            check_value(
                self.method in methods or value == default, f"task.{key}", value, need, code="no_effect"
            )
        if self.method not in (TrainingMethod.none, TrainingMethod.runner):
            need = (
                f"task.graph={self.graph} has fixed edges, so it cannot be trained. Remove task.graph "
                "or task.method"
            )
            check_value(self.graph is None, "task.method", self.method, need, code="conflict")
            need = "this method needs trainable edges. Give task.optimized_spatial=true"
            need = f"{need}, task.optimized_temporal=true or both"
            check_value(has_random, "task.method", self.method, need, code="missing")
        need = (
            "the graph has no random edges. Give task.optimized_spatial=true or task.graph, or omit this key"
        )
        check_value(
            not self.draw or has_random or self.graph is not None,
            "task.draw",
            self.draw,
            need,
            code="no_effect",
        )

    def _reject_multiple_samples_for_teams(self) -> None:
        """Raise ConfigError if task.samples is above 1 for a team, a multi-round discussion or a direct
        decision.
        """
        if not self.has_several_samples:
            return
        need = "only one agent can answer several times. Give task.mode=direct_answer"
        check_value(self.mode is Topology.direct_answer, "task.samples", self.samples, need, code="conflict")
        need = "task.samples above 1 requires one round. Omit task.num_rounds or task.samples"
        check_value(self.num_rounds == 1, "task.num_rounds", self.num_rounds, need, code="conflict")
        need = "this decision method uses only the last sample. Use majority_vote or final_refer"
        check_value(
            self.decision_method is not DecisionMethod.direct,
            "task.decision_method",
            self.decision_method,
            need,
            code="conflict",
        )

    def check_generation(self, generation: GenerationConfig) -> None:
        """Raise ConfigError if the generation settings make all answers to a question equal."""
        if self.has_several_samples:
            reject_greedy_duplicates(f"task.samples={self.samples}", generation)

    @property
    def named_adapters(self) -> list[str]:
        return [*self.role_adapters.values()]

    def role_adapter(self, role: Role | None) -> str | None:
        """Return the LoRA adapter for the calls of a role. If `role` is None, return the deciding agent's
        adapter.

        None means the base model.
        """
        return self.role_adapters.get(DECISION if role is None else role.value)

    @property
    def uses_chat_template(self) -> bool:
        """Agents always use the chat template, because their roles are chat messages."""
        return True

    @property
    def has_several_samples(self) -> bool:
        """Whether one agent answers each question several times."""
        return self.samples > 1

    @property
    def is_trained(self) -> bool:
        """Whether the graph is trained before use."""
        return self.method is not TrainingMethod.none and (self.optimized_spatial or self.optimized_temporal)

    @property
    def draws_edges(self) -> bool:
        """Whether each scored question uses randomly drawn graph edges."""
        return self.method is TrainingMethod.agent_prune_code if self.draw is None else self.draw

    @property
    def num_training_iterations(self) -> int:
        return self.num_iterations if self.is_trained else 0

    @property
    def num_training_questions(self) -> int:
        return self.batch_size * self.num_training_iterations

    @property
    def subject(self) -> str:
        """Short description of the job, with its topology and data split."""
        how = " pruned" if self.is_trained else " drawn" if self.draws_edges and self.graph is None else ""
        samples = f" x{self.samples}" if self.has_several_samples else ""
        return f"{self.mode}{samples}{how} {self.split}"

    @property
    def expected_completions(self) -> int:
        """Number of agent calls that the job makes for all questions, including training questions."""
        team = self.samples if self.mode is Topology.direct_answer else self.agents
        calls = team * self.num_rounds + (self.decision_method is DecisionMethod.final_refer)
        return (super().expected_completions + self.num_training_questions) * calls


OF_QUESTIONS = {item.name for item in fields(QuestionsConfig)}
# say what a team is
OF_TEAM = [item.name for item in fields(AgentsConfig) if item.name not in OF_QUESTIONS]
