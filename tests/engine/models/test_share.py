"""The share of a model that is quantized: as loaded, as the headers predict it, and what is refused
for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kinds_of_models import KINDS, save
from opening import make_spec
from raising import raises
from transformers import AutoTokenizer

from runner_base import machine, processor
from runner_base.errors import ConfigError
from runner_base.texts import format_percent
from runner_engine.checkpoints.linear_layers import plan_model_quantization
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.models.base_loading import LoadedModel, load_base_model
from runner_engine.plan import format_check
from runner_engine.plan.footprint import predict_footprint
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config, Nf4Config
from runner_engine.quantization.hqq import HqqConfig
from runner_engine.quantization.quantized_share import QuantizedShare
from runner_engine.settings.model import LocalModelConfig

MISSED = ("jetmoe",)  # a mixture whose experts no library takes, also in its attention
# reached by none
OWN_CLASSES = {"falcon": ("nf4", "int8", "hqq"), "gpt2": ("hqq", "torchao_int8", "int8_dynamic")}
PARTLY = (*MISSED, "zamba2")  # of which a part is missed
FORMATS = ("none", "nf4", "int8", "hqq", "torchao_int8", "int8_dynamic")


@pytest.fixture(scope="module")
def model_of(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a model of a kind with a tokenizer, once."""
    folders: dict[str, Path] = {}

    def folder(kind: str, **keys: Any) -> Path:
        key = repr((kind, sorted(keys.items())))
        if key not in folders:
            folders[key] = save(tmp_path_factory.mktemp(kind), kind, **keys)
            AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folders[key])
        return folders[key]

    return folder


@pytest.fixture
def job(model_of: Callable[..., Path]) -> Callable[..., Any]:
    def of(kind: str, quantization: QuantizationConfig, **keys: Any) -> Any:
        model = LocalModelConfig(name=str(model_of(kind, **keys)), device="cpu")
        return resolve_model(make_spec(model=model, quantization=quantization))

    return of


def weight_mib(base: LoadedModel) -> float:
    return sum(base.bytes_by_dtype.values()) / machine.MIB


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_the_plan_and_the_load_agree_on_what_is_quantized(
    job: Callable[..., Any], kind: str, name: str
) -> None:
    resolved = job(kind, CHOICES[name](allow_partial=True))
    format_check.check_checkpoint_format(resolved)
    predicted = predict_footprint(resolved, (1, 512, 24))
    if name in OWN_CLASSES.get(kind, ()):
        assert plan_model_quantization(resolved.files, resolved.quantization_mix, "cpu").share.quantized == 0
        with raises(ConfigError, "no_effect"):
            load_base_model(resolved)
        return
    base = load_base_model(resolved)
    assert predicted is not None
    assert predicted.weight_mib == pytest.approx(weight_mib(base), rel=0.005)
    if name == "none":
        assert "quantized_share" not in base.metrics
        return
    walked = plan_model_quantization(resolved.files, resolved.quantization_mix, "cpu").share
    assert base.metrics["quantized_share"] == pytest.approx(walked.of_blocks, abs=1e-4)
    assert base.metrics["quantized_share_of_all"] == pytest.approx(walked.of_all, abs=1e-4)
    of_bytes = base.metrics["quantized_share_of_bytes"]
    assert walked.of_bytes == pytest.approx(of_bytes, abs=0.005)
    of_blocks = base.metrics["quantized_share"]
    assert (of_blocks < 0.5) == (kind in MISSED)
    assert (of_blocks > 0.97) == (kind not in PARTLY)
    assert f"{format_percent(of_bytes)} of the bytes" in base.facts["quantized"]
    assert of_bytes < base.metrics["quantized_share_of_all"]  # a quantized number takes fewer
    of_all = base.metrics["quantized_share_of_all"]
    assert f"{format_percent(of_all)} of the parameters" in base.facts["quantized"]
    assert "mlp.experts" not in base.facts["left_alone"]
    assert ("quantizes_only" in {note.code for note in base.notes}) == (kind in PARTLY)


@pytest.mark.parametrize("kind", MISSED)
@pytest.mark.parametrize("name", FORMATS[1:])
def test_a_choice_that_misses_the_experts_is_refused_by_the_headers(
    job: Callable[..., Any], kind: str, name: str
) -> None:
    with raises(ConfigError, "unsupported") as raised:
        format_check.check_checkpoint_format(job(kind, CHOICES[name]()))
    assert "model.layers.*.mlp.input_linear" in raised.value.reason
    format_check.check_checkpoint_format(job(kind, CHOICES[name](allow_partial=True)))
    format_check.check_checkpoint_format(job("qwen3", CHOICES[name]()))


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in OWN_CLASSES.items() for name in names]
)
def test_a_choice_that_takes_no_layer_of_a_family_is_refused_by_the_headers(
    job: Callable[..., Any], kind: str, name: str
) -> None:
    with raises(ConfigError, "no_effect"):
        format_check.check_checkpoint_format(job(kind, CHOICES[name]()))


@pytest.mark.parametrize("name", FORMATS[1:])
def test_the_blocks_that_zamba_shares_stay_plain(job: Callable[..., Any], name: str) -> None:
    tied = job("zamba2", CHOICES[name]())
    (note,) = format_check.build_planned_quantization_notes(tied)
    assert note.values["label"] == name
    assert "(59 % of the transformer blocks' parameters)" in str(note.values["share"])
    assert str(note.values["kinds"]).startswith(
        "model.layers.*.shared_transformer.feed_forward.gate_up_proj_adapter_list.*"
    )
    assert (
        format_check.build_planned_quantization_notes(
            job("zamba2", CHOICES[name](), tie_word_embeddings=False)
        )
        == []
    )


def test_without_headers_it_is_refused_after_the_load(
    job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = job("jetmoe", Nf4Config(), num_local_experts=32)
    resolved.files.__dict__["tensors"] = []  # as of a .bin file
    format_check.check_checkpoint_format(resolved)
    with raises(ConfigError, "unsupported"):
        load_base_model(resolved)


def test_what_a_user_leaves_out_is_not_missed(job: Callable[..., Any]) -> None:
    resolved = job("qwen3", QuantizationConfig(overrides={"down_proj": "int8"}))
    format_check.check_checkpoint_format(resolved)
    assert format_check.build_planned_quantization_notes(resolved) == []
    base = load_base_model(resolved)
    assert base.metrics["quantized_share"] < 0.5
    assert base.metrics["quantized_share_of_wanted"] == 1.0
    assert "quantizes_only" not in {note.code for note in base.notes}
    with raises(ConfigError, "unsupported"):
        format_check.check_checkpoint_format(job("jetmoe", Int8Config(skip=["layers.0"])))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["qwen3", "qwen3_5"])
def test_layers_that_bitsandbytes_cannot_pack_are_quantized_and_counted(
    kind: str, job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """qwen3_5 has a few of them, and qwen3 gets an intermediate size that makes them many."""
    keys = {"intermediate_size": 200} if kind == "qwen3" else {}
    resolved = job(kind, Nf4Config(), **keys)
    shares, modules = [], []
    for packs in (False, True):
        monkeypatch.setattr(processor, "has_bfloat16_matmul", lambda packs=packs: packs)
        format_check.check_checkpoint_format(resolved)
        assert plan_model_quantization(resolved.files, resolved.quantization_mix, "cpu").unfit == {}
        base = load_base_model(resolved)
        predicted = predict_footprint(resolved, (1, 512, 24))
        assert predicted is not None
        assert predicted.weight_mib == pytest.approx(weight_mib(base), rel=0.005)
        shares.append(base.metrics["quantized_share"])
        modules.append(base.metrics["quantized_modules"])
    assert shares[0] == shares[1] > 0.9
    assert modules[0] == modules[1]


@pytest.mark.thorough
def test_inputs_that_are_no_whole_groups_stay_plain_if_they_are_few(job: Callable[..., Any]) -> None:
    resolved = job("qwen3", HqqConfig(group_size=128), head_dim=8)
    with raises(ConfigError, "unsupported", "quantization"):
        format_check.check_checkpoint_format(resolved)
    few = job("qwen3", HqqConfig(group_size=128), head_dim=8, intermediate_size=1024)
    format_check.check_checkpoint_format(few)
    base = load_base_model(few)
    assert base.metrics["quantized_modules"] == 24
    assert "self_attn.o_proj" in base.facts["left_alone"]
    predicted = predict_footprint(few, (1, 512, 24))
    assert predicted is not None
    assert predicted.weight_mib == pytest.approx(weight_mib(base), rel=0.005)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (QuantizedShare(97, 100, 97, 100), "97 % of the parameters"),
        (
            QuantizedShare(97, 200, 97, 100),
            "48 % of the parameters (97 % of the transformer blocks' parameters)",
        ),
        (QuantizedShare(9999, 10000, 9999, 10000), "99.9 % of the parameters"),
        (QuantizedShare(1, 1000, 1, 1000), "0.1 % of the parameters"),
        (QuantizedShare(0, 0, 0, 0), "0 % of the parameters"),
        (
            QuantizedShare(97, 200, 97, 100, quantized_bytes=50, all_bytes=256),
            "48 % of the parameters, 20 % of the bytes (97 % of the transformer blocks' parameters)",
        ),
        (
            QuantizedShare(97, 97, 97, 97, quantized_bytes=50, all_bytes=50),
            "100 % of the parameters, 100 % of the bytes",
        ),
    ],
)
def test_shares_in_words_say_100_of_all_only(share: QuantizedShare, words: str) -> None:
    assert share.description == words
