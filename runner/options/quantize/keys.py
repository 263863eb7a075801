"""task – the keys of task=quantize: recipe, bits, calibration texts, and where the model is
written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from runner.config.task import TaskConfig, absolute
from runner.options.quantize.recipes import KINDS, TENSOR_TYPES, Kind, Recipe
from runner_base import HASHED, MISSING, UNLESS_DEFAULT, Inert, check, filled, least, setting

BITS, GROUP_SIZE, ITERATIONS = 4, 128, 200
SEQUENCES, SEQUENCE_TOKENS = 128, 512
UNQUANTIZED = 16  # as bits in task.overrides: the layer stays as it is
EVALUATION = ("texts", "embedded")
APART = Inert("names texts that the calibration must not have, and changes nothing in the file")
FOUND = Inert("says where the package is; its version counts among the hashes")


@dataclass
class QuantizeConfig(TaskConfig):
    """Write a quantized model by its makers' own package."""

    module: ClassVar[str] = "runner.options.quantize.task"
    name: ClassVar[str] = "quantize"
    keeps_samples: ClassVar[bool] = False
    data_sets_key: ClassVar[str] = "evaluation"
    recipe: Recipe = MISSING
    bits: int | None = None
    group_size: int | None = setting(None, takes=least(8, ", or null"))
    symmetric: bool | None = None
    overrides: dict[str, Any] = field(default_factory=dict, metadata={"counts": UNLESS_DEFAULT})
    calibration: str | None = setting(
        None, HASHED, filled("give embedded, a .txt, .md or .jsonl file, a pattern, or null")
    )
    sequences: int = setting(SEQUENCES, takes=least(1))
    sequence_tokens: int = setting(SEQUENCE_TOKENS, takes=least(8))
    iterations: int | None = setting(None, takes=least(1, f", or null for {ITERATIONS}"))
    shard_mib: int | None = setting(None, UNLESS_DEFAULT, least(1, ", or null"))
    evaluation: list[str] = field(default_factory=lambda: [*EVALUATION], metadata={"counts": APART})
    gguf: str | None = setting(None, HASHED, filled("give a .gguf file, or null"))
    output: str | None = setting(None, takes=filled("give a folder, or null"))
    python: str | None = setting(None, FOUND, filled("give an environment, or null"))
    executable: str | None = setting(None, FOUND, filled("give llama-quantize's path, or null"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.output = None if self.output is None else absolute(self.output)
        if self.recipe == MISSING:
            return
        kind = self.kind
        if kind.bits:
            usual = BITS if self.bits is None else self.bits
            known = ", ".join(map(str, kind.bits))
            check(
                usual in kind.bits,
                "task.bits",
                usual,
                f"{self._of}: choose one of {known}",
                code="unknown_choice",
            )
            self.bits, self.group_size = usual, self.group_size or GROUP_SIZE
            self.symmetric = kind.is_symmetric if self.symmetric is None else self.symmetric
            need = f"{self._of} gives each group a zero point: leave it out"
            check(kind.has_symmetric or not self.symmetric, "task.symmetric", "true", need, code="conflict")
        else:
            need = f"{self._of} says how many bits: leave it out"
            check(self.bits is None, "task.bits", self.bits, need, code="conflict")
        need = (
            f"{self._of} needs texts: give a file of texts such as those the model is for, or "
            "embedded (word problems), and never what it is evaluated on"
        )
        check(
            not kind.reads_texts or self.calibration is not None,
            "task.calibration",
            "null",
            need,
            code="missing",
        )
        self._check_overrides(kind)
        self._leave_out_what_counts_elsewhere(kind)

    @property
    def kind(self) -> Kind:
        """Return what is known of the recipe."""
        return KINDS[self.recipe]

    @property
    def label(self) -> str:
        """Return the end of the made model's name: the recipe, its bits and its groups."""
        if not self.kind.bits:
            return self.recipe.value + "-mix" * bool(self.overrides)
        form = "" if self.symmetric == self.kind.is_symmetric else "-sym" if self.symmetric else "-asym"
        return f"{self.recipe.value}-{self.bits}bit-g{self.group_size}{form}" + "-mix" * bool(self.overrides)

    @property
    def subject(self) -> str:
        """Return the recipe."""
        return self.label

    @property
    def _of(self) -> str:
        return f"task.recipe={self.recipe.value}"

    def _check_overrides(self, kind: Kind) -> None:
        """Raise ConfigError for layers that would get what the recipe does not make."""
        choices: tuple[Any, ...] = (*kind.override_bits, UNQUANTIZED) if kind.bits else TENSOR_TYPES
        if self.overrides:
            need = f"{self._of} makes all layers alike: leave it out"
            check(
                bool(kind.override_bits) or kind.is_file,
                "task.overrides",
                self.overrides,
                need,
                code="conflict",
            )
        for pattern, value in self.overrides.items():
            known = ", ".join(map(str, choices))
            check(
                value in choices,
                f"task.overrides.{pattern}",
                value,
                f"choose one of {known}",
                code="unknown_choice",
            )

    def _leave_out_what_counts_elsewhere(self, kind: Kind) -> None:
        """Forget the keys that other recipes of a grid read: no job has another id for them."""
        if not kind.bits:
            self.group_size = self.symmetric = None
        if not kind.reads_texts:
            self.calibration = None
            self.sequences, self.sequence_tokens = SEQUENCES, SEQUENCE_TOKENS
        if kind.is_file:
            self.iterations = self.shard_mib = None
        else:
            self.gguf = None
        learns = self.recipe is Recipe.autoround
        self.iterations = (self.iterations or ITERATIONS) if learns else None
