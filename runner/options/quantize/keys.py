"""Config keys of task=quantize: recipe, bits, calibration texts, output folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from runner.config.task import TaskConfig, to_absolute_path
from runner.options.quantize.recipes import KINDS, TENSOR_TYPES, Recipe, RecipeProperties
from runner_base import (
    HASHED,
    MISSING,
    UNLESS_DEFAULT,
    NotInIdentity,
    at_least,
    check_value,
    config_field,
    not_blank,
)

BITS, GROUP_SIZE, ITERATIONS = 4, 128, 200
SEQUENCES, SEQUENCE_TOKENS = 128, 512
UNQUANTIZED = 16  # as bits in task.overrides: the layer stays as it is
EVALUATION = ("texts", "embedded")
APART = NotInIdentity("the quantized file does not depend on the evaluation texts")
FOUND = NotInIdentity("the job id contains the package's version instead of its path")


@dataclass
class QuantizeConfig(TaskConfig):
    """Config of task=quantize, in which a quantizer package writes a quantized model."""

    module: ClassVar[str] = "runner.options.quantize.task"
    name: ClassVar[str] = "quantize"
    keeps_samples: ClassVar[bool] = False
    data_sets_key: ClassVar[str] = "check_overlap_with"
    recipe: Recipe = MISSING
    bits: int | None = None
    group_size: int | None = config_field(None, constraint=at_least(8, ", or null"))
    symmetric: bool | None = None
    overrides: dict[str, Any] = field(default_factory=dict, metadata={"counts": UNLESS_DEFAULT})
    calibration: str | None = config_field(
        None,
        HASHED,
        not_blank("give a .txt, .md or .jsonl file, a glob pattern, embedded, or null for no calibration"),
    )
    sequences: int = config_field(SEQUENCES, constraint=at_least(1))
    sequence_tokens: int = config_field(SEQUENCE_TOKENS, constraint=at_least(8))
    iterations: int | None = config_field(None, constraint=at_least(1, f", or null for {ITERATIONS}"))
    shard_mib: int | None = config_field(None, UNLESS_DEFAULT, at_least(1, ", or null"))
    check_overlap_with: list[str] = field(
        default_factory=lambda: [*EVALUATION], metadata={"renamed_from": "evaluation", "counts": APART}
    )
    gguf: str | None = config_field(None, HASHED, not_blank("give a .gguf file, or null"))
    output: str | None = config_field(None, constraint=not_blank("give a folder, or null"))
    python: str | None = config_field(None, FOUND, not_blank("give an environment, or null"))
    executable: str | None = config_field(None, FOUND, not_blank("give llama-quantize's path, or null"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.output = None if self.output is None else to_absolute_path(self.output)
        if self.recipe == MISSING:
            return
        kind = self.recipe_properties
        if kind.bits:
            usual = BITS if self.bits is None else self.bits
            known = ", ".join(map(str, kind.bits))
            check_value(
                usual in kind.bits,
                "task.bits",
                usual,
                f"{self._recipe_override}: choose one of {known}",
                code="unknown_choice",
            )
            self.bits, self.group_size = usual, self.group_size or GROUP_SIZE
            self.symmetric = kind.is_symmetric if self.symmetric is None else self.symmetric
            need = f"{self._recipe_override} always quantizes with a zero point. Omit this key"
            check_value(
                kind.has_symmetric or not self.symmetric, "task.symmetric", "true", need, code="conflict"
            )
        else:
            need = f"{self._recipe_override} determines the number of bits. Omit this key"
            check_value(self.bits is None, "task.bits", self.bits, need, code="conflict")
        need = (
            f"{self._recipe_override} needs calibration documents. Give a file with typical inputs "
            "of the model, or embedded (word problems). Never give evaluation data"
        )
        check_value(
            not kind.reads_texts or self.calibration is not None,
            "task.calibration",
            "null",
            need,
            code="missing",
        )
        self._check_layer_formats(kind)
        self._reset_keys_unused_by_recipe(kind)

    @property
    def recipe_properties(self) -> RecipeProperties:
        return KINDS[self.recipe]

    @property
    def label(self) -> str:
        """Suffix for the name of the quantized model, made of recipe, bits and group size."""
        if not self.recipe_properties.bits:
            return self.recipe.value + "-mix" * bool(self.overrides)
        form = (
            ""
            if self.symmetric == self.recipe_properties.is_symmetric
            else "-sym"
            if self.symmetric
            else "-asym"
        )
        return f"{self.recipe.value}-{self.bits}bit-g{self.group_size}{form}" + "-mix" * bool(self.overrides)

    @property
    def subject(self) -> str:
        return self.label

    @property
    def _recipe_override(self) -> str:
        return f"task.recipe={self.recipe.value}"

    def _check_layer_formats(self, recipe: RecipeProperties) -> None:
        """Raise ConfigError if the recipe cannot produce the formats that task.overrides sets for single
        layers.
        """
        choices: tuple[Any, ...] = (*recipe.override_bits, UNQUANTIZED) if recipe.bits else TENSOR_TYPES
        if self.overrides:
            need = f"{self._recipe_override} cannot mix formats by layer. Omit task.overrides"
            check_value(
                bool(recipe.override_bits) or recipe.is_file,
                "task.overrides",
                self.overrides,
                need,
                code="conflict",
            )
        for pattern, value in self.overrides.items():
            known = ", ".join(map(str, choices))
            check_value(
                value in choices,
                f"task.overrides.{pattern}",
                value,
                f"choose one of {known}",
                code="unknown_choice",
            )

    def _reset_keys_unused_by_recipe(self, recipe: RecipeProperties) -> None:
        """Reset config keys that have no effect with this recipe to their defaults.

        Without the reset, values that a grid sets for other recipes would change the job id.
        """
        if not recipe.bits:
            self.group_size = self.symmetric = None
        if not recipe.reads_texts:
            self.calibration = None
            self.sequences, self.sequence_tokens = SEQUENCES, SEQUENCE_TOKENS
        if recipe.is_file:
            self.iterations = self.shard_mib = None
        else:
            self.gguf = None
        learns = self.recipe is Recipe.autoround
        self.iterations = (self.iterations or ITERATIONS) if learns else None
