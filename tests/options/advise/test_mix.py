"""runner-advise --mix: what it writes gives each layer its format, fits the limit, and is what its
jobs have measured."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises
from transformers import AutoModelForCausalLM

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.library.jobs import evaluate
from runner.options import advise
from runner.options.advise import mix
from runner.options.advise.mix import MixableModel, SizeLimit
from runner_base import MIB
from runner_base.errors import ConfigError
from runner_base.files import get_user_cache_folder
from runner_engine.embedded import MODEL_DIR
from runner_engine.models.base_loading import load_base_model
from tools import embedded_mixture

NAMES = ("nf4", "int8", "none")


def composed(words: list[str]) -> RunnerConfig:
    return to_runner_config(*compose_job(words))


def of_embedded(by_block: bool = False) -> MixableModel:
    return MixableModel.from_config(["task=likelihood"], NAMES, by_block, composed)


@pytest.fixture
def new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the user's cache have nothing but the compiled kernels, which each process would build
    anew."""
    folder = tmp_path / "cache" / "runner"
    folder.mkdir(parents=True)
    for library in (get_user_cache_folder() or folder).glob("kernels-*.so"):
        (folder / library.name).symlink_to(library)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))


@pytest.mark.parametrize(
    "text",
    ["60", "weight_mib>60", "file_mib<60", "weight_mib<0", "weight_mib<-1", "weight_mib<1,model_mib<2"],
)
def test_a_limit_that_is_none_is_refused_with_an_example(text: str) -> None:
    with raises(ConfigError, "bad_value", "--mix"):
        SizeLimit.parse(text)
    assert SizeLimit.parse("model_mib < 1.5") == SizeLimit("model_mib", 1.5)


@pytest.mark.parametrize("by_block", [False, True])
def test_the_overrides_give_each_layer_its_format_and_name_modules_that_share_one(by_block: bool) -> None:
    model = of_embedded(by_block)
    count = len(model.layers)
    assert count == (4 if by_block else 28)
    choices = [(number * number // 3 % 3) for number in range(count)]
    config = composed(["task=likelihood", *model.build_quantization_overrides(tuple(choices))])
    for paths, number in zip(model.layers.values(), choices, strict=True):
        assert {config.mix.select_layer_config(path).name for path in paths} == {NAMES[number]}
    assert model.build_quantization_overrides((0,) * count) == [
        "quantization=nf4",
        "quantization.overrides={}",
    ]
    first = tuple(2 if "layers.0." in f"{name}." else 0 for name in model.layers)
    assert model.build_quantization_overrides(first) == [
        "quantization=nf4",
        "quantization.overrides={layers.0: none}",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("new_cache", "warm_children")
def test_a_mix_meets_its_limit_and_beats_the_format_that_fits_and_a_second_run_measures_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ["task.limit=60", f"output_dir={tmp_path}", "tracking=none"]

    def data(limit: str) -> dict[str, Any]:
        assert advise.main(["--mix", limit, "--json", *shared]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    found = data("weight_mib<2.4")
    mix, uniform = found["mix"], {it["found_by"][0]: it for it in found["others"]}
    assert 0.99 * 2.4 <= mix["weight_mib"] < 2.4
    assert mix["weight_mib"] == pytest.approx(mix["predicted_weight_mib"], rel=0.01)
    assert uniform["uniform nf4"]["weight_mib"] < mix["weight_mib"] < uniform["uniform int8"]["weight_mib"]
    assert 0 < mix["kl_nats_per_token"] < uniform["uniform nf4"]["kl_nats_per_token"] / 2
    assert uniform["uniform none"]["kl_nats_per_token"] == 0
    assert any("better than uniform nf4" in it for it in found["sentences"])

    def unexpected(*_: object) -> None:
        raise AssertionError("single losses are measured again")

    monkeypatch.setattr("runner.options.advise.layer_losses.measure_quantization_loss_per_layer", unexpected)
    assert data("weight_mib<2.4") == found
    words = shlex.split(found["command"])[1:]
    record = evaluate(*words, "task=likelihood", "task.limit=20")
    assert record.result.metrics["weight_mib"] == pytest.approx(mix["weight_mib"], rel=1e-3)


def test_what_cannot_be_mixed_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in [
        (["model=stub"], "this model has no weights on this machine"),
        (["quantization=nf4,int9"], "int9"),
        (["--memory-gib", "1"], "Omit --memory-gib"),
    ]:
        assert advise.main(["--mix", "weight_mib<2", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("new_cache")
def test_the_experts_of_a_layer_get_one_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    torch.manual_seed(0)
    embedded_mixture.save(embedded_mixture.mixture(dense, 0.5), tmp_path / "mixture")
    words = ["task=likelihood", "model=auto", f"model.name={tmp_path / 'mixture'}"]
    model = MixableModel.from_config(words, ("nf4", "none"), False, composed)
    assert len(model.layers) == 4 * (4 + 1)
    experts = [number for number, name in enumerate(model.layers) if name.endswith(".mlp.experts")]
    assert {len(paths) for name, paths in model.layers.items() if name.endswith("experts")} == {3 * 8}
    # only experts in 4 bits
    choice = tuple(int(number not in experts) for number in range(len(model.layers)))
    config = composed([*words, *model.build_quantization_overrides(choice)])
    base = load_base_model(resolve_job(config).model)
    assert sum(base.bytes_by_dtype.values()) / MIB == pytest.approx(model.weight_mib(choice), rel=0.002)

    monkeypatch.setattr(mix, "TEXTS", 2)
    kept = {name: paths for name, paths in model.layers.items() if name.startswith("model.layers.2.")}
    losses = mix.load_or_measure_quantization_losses(replace(model, layers=kept), composed)
    assert losses["model.layers.2.mlp.experts"]["nf4"] > losses["model.layers.2.self_attn.k_proj"]["nf4"] > 0
