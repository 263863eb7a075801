"""`.pth` file ⇄ PEFT folder: bit for bit where it can be, and said where it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opening import adapt, load_base, make_spec
from raising import raises
from safetensors.torch import load_file, save_file

from runner.options.older_tools.convert_lora import convert_between_pth_and_peft, create_parser
from runner_base.errors import Code, ConfigError, OutputError
from runner_engine.settings.lora import PeftConfig, PthConfig
from runner_engine.settings.model import LocalModelConfig

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
IDS = torch.arange(3, 40)[None]


def run(*words: object) -> str:
    return convert_between_pth_and_peft(create_parser().parse_args([str(word) for word in words]))


def squares(dtype: torch.dtype = torch.float32, rank: int = 4) -> dict[str, torch.Tensor]:
    random, state = torch.Generator().manual_seed(0), {}
    for layer in range(2):
        for name in ("q_proj", "o_proj"):
            for side, shape in (("A", (rank, 64)), ("B", (64, rank))):
                key = f"model.layers.{layer}.self_attn.{name}.lora.{side}.weight"
                state[key] = torch.randn(*shape, generator=random).mul(0.1).to(dtype)
    return state


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    def bits(tensor: torch.Tensor) -> bytes:
        return bytes(tensor.contiguous().view(torch.uint8).numpy())

    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and bits(one[key]) == bits(other[key]) for key in one
    )


@pytest.fixture
def make_peft(tiny_llama: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that has PEFT itself make an adapter on q_proj and o_proj."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def make(dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        keys: dict[str, Any] = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "o_proj"]} | settings
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), LoraConfig(**keys))
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model.to(dtype).save_pretrained(str(tmp_path / "peft"))
        return tmp_path / "peft"

    return make


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_there_and_back_is_bit_for_bit(tiny_llama: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    state = squares(dtype)
    torch.save(state, tmp_path / "one.pth")
    there = run(tmp_path / "one.pth", tmp_path / "peft", "--base", tiny_llama)
    back = run(tmp_path / "peft", tmp_path / "two.pth", "--base", tiny_llama)
    assert same_bits(torch.load(tmp_path / "two.pth", weights_only=True), state)
    assert (
        there.splitlines()[1] == back.splitlines()[1] == f"{str(dtype).removeprefix('torch.')} · bit for bit"
    )
    assert "4 modules · rank 4 · 2,048 parameters · delta norm " in there
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 4)
    assert settings["base_model_name_or_path"] == str(tiny_llama)
    modules = {key.partition(".lora.")[0] for key in state}
    assert settings["target_modules"] == sorted(modules)
    again = tmp_path / "again"
    run(tmp_path / "one.pth", again, "--base", tiny_llama)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (again / file).read_bytes() == (tmp_path / "peft" / file).read_bytes(), (
            "the same file each time"
        )


def test_prefixed_file_and_its_twin(tiny_llama: Path, tmp_path: Path) -> None:
    state = squares(torch.float16)
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "ddp.pth")
    run(tmp_path / "ddp.pth", tmp_path / "peft", "--base", tiny_llama)
    run(tmp_path / "peft", tmp_path / "back.pth", "--base", tiny_llama)
    assert same_bits(torch.load(tmp_path / "back.pth", weights_only=True), state)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("settings", "scaling"),
    [
        ({}, 1),
        ({"lora_alpha": 8}, 2),
        ({"lora_alpha": 8, "use_rslora": True}, 4),
        ({"alpha_pattern": {"o_proj": 2}}, 0.5),
    ],
    ids=["plain", "alpha", "rslora", "pattern"],
)
def test_scaling_goes_into_b(
    make_peft: Callable[..., Path], tiny_model: LocalModelConfig, tmp_path: Path, settings: Any, scaling: float
) -> None:  # fmt: skip
    peft = make_peft(**settings)
    said = run(peft, tmp_path / "lora.pth", "--base", tiny_model.name)
    exactness = (
        "bit for bit"
        if scaling == 1
        else f"the matrices lora_B are multiplied by the scaling ({scaling}) · exact: no number rounded"
    )
    assert said.splitlines()[1] == f"float32 · {exactness}"
    logits = []
    for lora in (PeftConfig(path=str(peft)), PthConfig(path=str(tmp_path / "lora.pth"))):
        spec = make_spec(model=tiny_model, lora=lora)
        loaded = adapt(load_base(spec), spec)
        with torch.inference_mode():
            logits.append(loaded.model(IDS).logits)
        logits.append(loaded.metrics["lora_delta_norm"])
    # wide random logits, to 20
    torch.testing.assert_close(logits[0], logits[2], atol=1e-4, rtol=1e-5)
    assert logits[1] == pytest.approx(logits[3], rel=1e-5)
    named = load_file(peft / "adapter_model.safetensors")
    written = torch.load(tmp_path / "lora.pth", weights_only=True)
    o_proj = "model.layers.0.self_attn.o_proj"
    assert torch.equal(written[f"{o_proj}.lora.A.weight"], named[f"base_model.model.{o_proj}.lora_A.weight"])
    assert torch.equal(
        written[f"{o_proj}.lora.B.weight"], named[f"base_model.model.{o_proj}.lora_B.weight"] * scaling
    )


def test_a_scaling_that_would_round_is_refused_unless_asked_for(
    make_peft: Callable[..., Path], tiny_llama: Path, tmp_path: Path
) -> None:
    peft = make_peft(torch.float16, lora_alpha=5)  # 1.25: two bits more than a half has
    out = tmp_path / "lora.pth"
    with raises(ConfigError, "refused", f"IN={peft}"):
        run(peft, out, "--base", tiny_llama)
    assert not out.exists()
    said = run(peft, out, "--base", tiny_llama, "--dtype", "float32")
    assert said.endswith(
        "float32 · the matrices lora_B are multiplied by the scaling (1.25) · exact: no number rounded"
    )
    said = run(peft, tmp_path / "half.pth", "--base", tiny_llama, "--dtype", "float16")
    assert "of 2,048 numbers rounded" in said
    assert {t.dtype for t in torch.load(tmp_path / "half.pth", weights_only=True).values()} == {torch.float16}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ["q_proj", "k_proj"]},
            r"only square layers, but 2 of its 4 modules are not square in",
        ),
        ({"use_dora": True}, r"cannot store: use_dora=True\. Use the adapter unchanged with lora=peft"),
        ({"bias": "lora_only"}, "bias=lora_only"),
        ({"modules_to_save": ["norm"]}, "modules_to_save="),
        ({"rank_pattern": {"o_proj": 2}}, "the same rank, but .*q_proj has 4 and .*o_proj has 2$"),
    ],
    ids=["oblong", "dora", "bias", "saved", "ranks"],
)
def test_what_a_pth_file_cannot_hold(
    make_peft: Callable[..., Path], tiny_llama: Path, tmp_path: Path, settings: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(make_peft(**settings), tmp_path / "lora.pth", "--base", tiny_llama)
    assert not (tmp_path / "lora.pth").exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"init_lora_weights": "pissa"}, "unsupported"),
        ({"fan_in_fan_out": True}, "unsupported"),
        ({"peft_type": "IA3"}, "unsupported"),
        ({"target_modules": ["nope"]}, "mismatch"),
        ({"target_modules": ["q_proj"]}, "mismatch"),
        ({"target_modules": ["q_proj", "o_proj", "up_proj"]}, "damaged"),
        ({"something_new": 3}, "unsupported"),
    ],
)
def test_what_its_config_says_is_believed(
    make_peft: Callable[..., Path], tiny_llama: Path, tmp_path: Path, change: dict[str, Any], code: Code
) -> None:
    peft = make_peft()
    settings = json.loads((peft / "adapter_config.json").read_text())
    (peft / "adapter_config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ConfigError) as caught:
        run(peft, tmp_path / "lora.pth", "--base", tiny_llama)
    assert caught.value.code == code
    assert str(caught.value).startswith(f"IN={peft}")


def test_sizes_and_zeros_in_a_peft_folder(
    make_peft: Callable[..., Path], tiny_llama: Path, tmp_path: Path
) -> None:
    peft = make_peft()
    weights = load_file(peft / "adapter_model.safetensors")
    save_file(
        {key: w[:, :-1].contiguous() if "_A" in key else w for key, w in weights.items()},
        peft / "adapter_model.safetensors",
    )
    with pytest.raises(ConfigError, match=r"size mismatch for \S+q_proj: A \[4, 63\] and B \[64, 4\]"):
        run(peft, tmp_path / "lora.pth", "--base", tiny_llama)
    save_file({key: w * ("_A" in key) for key, w in weights.items()}, peft / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="changes nothing"):
        run(peft, tmp_path / "lora.pth", "--base", tiny_llama)
    (peft / "adapter_model.safetensors").write_bytes(b"\0" * 9)
    with raises(ConfigError, "unreadable", f"IN={peft}"):
        run(peft, tmp_path / "lora.pth", "--base", tiny_llama)
    (peft / "adapter_model.safetensors").unlink()
    torch.save(weights, peft / "adapter_model.bin")  # as older PEFT wrote it
    assert "bit for bit" in run(peft, tmp_path / "lora.pth", "--base", tiny_llama)


def test_places(tiny_llama: Path, tmp_path: Path) -> None:
    torch.save(squares(), tmp_path / "lora.pth")
    for taken in (tmp_path / "lora.pth", tmp_path):
        with raises(ConfigError, "exists"):
            run(tmp_path / "lora.pth", taken, "--base", tiny_llama)
    with raises(ConfigError, "not_found", "IN"):
        run("nope", tmp_path / "x", "--base", tiny_llama)
    with pytest.raises(ConfigError) as caught:
        run(tmp_path / "lora.pth", tmp_path / "x", "--base", "./nope")
    assert (caught.value.key, caught.value.value) == ("--base", "./nope")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text('{"model_type": "unheard_of"}')
    with raises(ConfigError, "unsupported", "--base"):
        run(tmp_path / "lora.pth", tmp_path / "x", "--base", odd)
    with pytest.raises(
        ConfigError, match="size mismatch for .*q_proj: .*the layer of embedded is .256, 256."
    ):
        run(tmp_path / "lora.pth", tmp_path / "x", "--base", "embedded")
    with raises(OutputError, "failed"):
        run(tmp_path / "lora.pth", tmp_path / "lora.pth" / "x", "--base", tiny_llama)
    assert not (tmp_path / "x").exists()


def test_a_base_without_weights_is_enough(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    shutil.copy(tiny_llama / "config.json", tmp_path / "base")
    torch.save(squares(), tmp_path / "lora.pth")
    assert "4 modules" in run(tmp_path / "lora.pth", tmp_path / "peft", "--base", tmp_path / "base")


@pytest.mark.slow
def test_command(runner: Callable[..., Any], tmp_path: Path) -> None:
    module = "runner.options.older_tools.convert_lora"
    done = runner("embedded_pth", "peft", "--base", "embedded", module=module)
    assert done.code == 0, done.err
    assert "8 modules · rank 16 · 65,536 parameters · delta norm 6.15\nfloat16 · bit for bit" in done.out
    assert done.err == ""
    refused = runner("embedded", "x.pth", "--base", "embedded", module=module)
    assert refused.code == 2
    assert "runner-convert-lora: IN=embedded: " in refused.err
    assert "only square layers, but 20 of its 28 modules are not square" in refused.err
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.slow
def test_the_command_says_that_a_device_is_full(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "runner.options.older_tools.convert_lora", "--help"]
        done = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=200, check=False
        )
    assert done.returncode == 1
    assert "stdout (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr
