"""The families for which a plan has rules of their own are those for which transformers has
some."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from runner_engine.checkpoints.library_rules import (
    IN_FLOAT32,
    LEFT_PLAIN,
    compute_unquantized_nbytes,
    is_excluded_from_quantization,
)

MODELS = Path(transformers.__file__).parent / "models"
FEW = {"e_score_correction_bias"}  # a number for each expert


def listed(attribute: str) -> dict[str, set[str]]:
    """Return what the classes of each causal family list under a name."""
    return {
        family: names
        for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if (names := set(in_module(model_type_to_module_name(family), attribute)))
    }


def in_module(folder: str, attribute: str) -> Iterator[str]:
    source = MODELS / folder / f"modeling_{folder}.py"
    text = source.read_text() if source.exists() else ""
    for node in ast.walk(ast.parse(text)) if attribute in text else ():
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.List):
            continue
        if any(isinstance(target, ast.Name) and target.id == attribute for target in node.targets):
            yield from ast.literal_eval(node.value)


@pytest.mark.thorough
def test_every_family_that_keeps_tensors_in_float32_has_a_rule() -> None:
    families = {family for family, names in listed("_keep_in_fp32_modules_strict").items() if names - FEW}
    aliases = {"inkling", "inkling2"}  # with pictures; their texts are inkling_text …
    assert families - aliases == set(IN_FLOAT32)


@pytest.mark.thorough
def test_every_family_whose_projections_stay_plain_has_a_rule() -> None:
    by_family = listed("_keep_in_fp32_modules")
    families = {family for family, names in by_family.items() if any("proj" in name for name in names)}
    assert families == set(LEFT_PLAIN)


def test_only_what_is_named_counts_otherwise() -> None:
    gate = "model.layers.0.mlp.gate.weight"
    assert (
        compute_unquantized_nbytes(gate, 10, "beam", 2)
        == compute_unquantized_nbytes(gate, 10, "beam", 4)
        == 40
    )
    assert (
        compute_unquantized_nbytes(gate, 10, "qwen3_moe", 2)
        == compute_unquantized_nbytes(f"{gate}_proj", 10, "mixtral", 2)
        == 20
    )
    weights = "model.layers.1.self_attn.indexer.weights_proj.weight"
    assert is_excluded_from_quantization(weights, "axk2")
    assert not is_excluded_from_quantization(weights, "hy_v4")
    assert not is_excluded_from_quantization("model.layers.1.self_attn.indexer.wk.weight", "axk2")
