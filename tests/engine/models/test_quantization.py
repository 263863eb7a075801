"""torchao's real int8 of weights, and of weights and rows, checkpoints that are quantized already
(real ones by bitsandbytes and torchao), and errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_peft, save_pth
from families import settings as family_settings
from loading import NONE, configure, load, logits
from opening import check_format, predict
from raising import raises

from runner_base.dtypes import Dtype
from runner_base.errors import Code, ConfigError
from runner_engine.checkpoints import weight_sizes
from runner_engine.checkpoints.resolved_model import read_model_config, read_tensor_headers
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.inventory import count_weight_nbytes
from runner_engine.quantization import detect_stored_format
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Fp4Config, Int8Config, Nf4Config
from runner_engine.quantization.gguf import GgufConfig
from runner_engine.quantization.grouped import AwqConfig, GptqConfig
from runner_engine.quantization.torchao import Int8DynamicConfig, TorchaoFloat8Config, TorchaoInt8Config
from runner_engine.settings.lora import PeftConfig, PthConfig
from runner_engine.settings.model import LocalConfig
from runner_engine.spec import ModelSpec

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Saved = Callable[..., Path]


def loaded_bytes(loaded: LoadedModel) -> int:
    return sum(loaded.bytes_by_dtype.values())


def predicted_bytes(spec: ModelSpec) -> int:
    predicted = predict(spec, 1, 8, 8)
    assert predicted is not None
    return sum(predicted.weights.values())


# ------------------------------------------------------------------------------------------ torchao


@pytest.mark.thorough
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize(
    ("quantization", "weight_class", "of_layer", "of_logits"),
    [
        (TorchaoInt8Config(), "Int8Tensor", 0.01, 0.04),
        (Int8DynamicConfig(), "Int8Tensor", 0.02, 0.08),
        (TorchaoFloat8Config(), "Float8Tensor", 0.05, 0.15),
    ],
)
def test_torchaos_8_bits_are_really_on(
    saved_family: Saved,
    tied: bool,
    dtype: Dtype,
    quantization: QuantizationConfig,
    weight_class: str,
    of_layer: float,
    of_logits: float,
) -> None:
    folder = saved_family(tied=tied)
    exact = logits(load(folder, dtype=Dtype.float32))
    plain = load(folder, dtype=dtype)
    rough = load(folder, quantization, dtype=dtype)
    linears = [m for n, m in plain.model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    assert rough.metrics["quantized_modules"] == len(linears) == 14
    assert f"14 {weight_class}" in rough.facts["quantized"]
    size = linears[0].weight.element_size()
    # a byte a number instead of the dtype; a float32 scale a row comes on top, and for int8 a zero
    # point
    of_row = 4 if weight_class == "Float8Tensor" else 5
    less = sum(m.weight.numel() * (size - 1) - m.weight.shape[0] * of_row for m in linears)
    buffers = sum(b.numel() * b.element_size() for b in plain.model.buffers())
    assert loaded_bytes(plain) - loaded_bytes(rough) == less
    spec = configure(folder, quantization, dtype=dtype)
    assert predicted_bytes(spec) == loaded_bytes(rough) - buffers
    # one layer within 1 or 2 %, and the logits within 4 or 8 % of float32: a random model
    # multiplies errors from layer to layer
    x = torch.randn(8, 128, generator=torch.Generator().manual_seed(0)).to(linears[0].weight.dtype)
    with torch.inference_mode():
        before, after = (m.model.model.layers[0].mlp.gate_proj(x).float() for m in (plain, rough))
    assert 0 < (after - before).norm() / before.norm() < of_layer
    assert 0 < (logits(rough) - exact).norm() / exact.norm() < of_logits


def test_a_torchao_weight_that_two_layers_share_counts_once() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    one, two = torch.nn.Linear(64, 32, bias=False), torch.nn.Linear(64, 32, bias=False)
    quantize_(one, Int8WeightOnlyConfig())
    apart = count_weight_nbytes(torch.nn.ModuleList([one]))
    assert apart == {"int8": 64 * 32 + 32, "float32": 32 * 4}
    two.weight = one.weight
    assert count_weight_nbytes(torch.nn.ModuleList([one, two])) == apart


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["peft", "pth"])
@pytest.mark.parametrize(
    ("quantization", "times"),
    [(TorchaoInt8Config(), 10), (Int8DynamicConfig(), 5), (TorchaoFloat8Config(), 2)],
)
def test_adapters_over_torchaos_int8(
    saved_family: Saved, tmp_path: Path, kind: str, quantization: QuantizationConfig, times: int
) -> None:
    folder = saved_family()
    if kind == "peft":
        lora: Any = PeftConfig(path=str(save_peft(tmp_path / "adapter", folder)))
    else:
        lora = PthConfig(path=str(save_pth(tmp_path / "adapter.pth", family_settings("llama"))))
    base = load(folder, quantization, dtype=Dtype.float32)
    plain = load(folder, dtype=Dtype.float32, lora=lora)
    loaded = load(folder, quantization, dtype=Dtype.float32, lora=lora)
    assert (loaded.metrics["quantized_modules"], loaded.metrics["lora_modules"]) == (14, 4)
    assert (logits(loaded) - logits(base)).norm() > times * (logits(loaded) - logits(plain)).norm()


@pytest.mark.thorough
def test_a_run_is_quiet_although_torchao_is_installed(saved_family: Saved) -> None:
    program = f"""
import logging
logging.basicConfig(level=logging.WARNING)
from runner_engine.settings.model import LocalConfig
from runner_engine.spec import ModelSpec
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.models.base_loading import load_base_model
from runner_engine.quantization.torchao import TorchaoInt8Config
model = LocalConfig(name={str(saved_family())!r}, device="cpu")
load_base_model(resolve_model(ModelSpec(model, TorchaoInt8Config())))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# --------------------------------------------------------------------------------- quantized
# already, for real


REAL = {
    "nf4": Nf4Config(compute_dtype=Dtype.float32),
    "nf4-single": Nf4Config(double_quant=False),
    "int8": Int8Config(),
    "torchao_int8": TorchaoInt8Config(),
    "torchao_float8": TorchaoFloat8Config(),
    "int8_dynamic": Int8DynamicConfig(),
}


@pytest.fixture(scope="module")
def quantized(saved_family: Saved, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that saves a model as its library does, quantized."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in done:
            done[kind] = tmp_path_factory.mktemp(kind)
            model = AutoModelForCausalLM.from_pretrained(
                saved_family(),
                dtype=torch.bfloat16,
                device_map={"": torch.device("cpu")},
                **REAL[kind].build_load_arguments(),
            )
            model.save_pretrained(done[kind])
            AutoTokenizer.from_pretrained(saved_family()).save_pretrained(done[kind])
        return done[kind]

    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("kind", REAL)
def test_a_quantized_checkpoint_loads_as_it_is(
    saved_family: Saved, quantized: Callable[[str], Path], kind: str
) -> None:
    at_load = load(saved_family(), REAL[kind])
    as_it_is = load(quantized(kind))
    insisted = load(quantized(kind), REAL[kind])
    assert as_it_is.metrics["quantized_modules"] == insisted.metrics["quantized_modules"] == 14
    assert loaded_bytes(as_it_is) == loaded_bytes(insisted) == loaded_bytes(at_load)
    method = REAL[kind].method
    assert as_it_is.facts["checkpoint"].startswith(f"quantized already: {REAL[kind].name} by {method}")
    assert "checkpoint_quantized" in {note.code for note in as_it_is.notes}
    assert "checkpoint" not in at_load.facts
    assert torch.equal(logits(as_it_is), logits(at_load))
    assert torch.equal(logits(insisted), logits(at_load))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", REAL)
def test_its_size_is_known_from_the_headers(quantized: Callable[[str], Path], kind: str) -> None:
    folder = quantized(kind)
    loaded = load(folder)
    buffers = sum(b.numel() * b.element_size() for b in loaded.model.buffers())
    actual = loaded_bytes(loaded) - buffers
    # bitsandbytes shares one table of codes among layers in memory, and writes it for each
    assert actual <= predicted_bytes(configure(folder)) <= actual * 1.2
    at_load, stored = (predict(configure(folder, q), 1, 8, 8) for q in (REAL[kind], NONE))
    assert at_load == stored


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("nf4", Int8Config(), r"quantization=int8: model.name=\S+ is already quantized \(nf4 by bitsandbytes \(double_quant=True, compute_dtype=float32\)\). Use quantization=none or quantization=nf4"),
        ("nf4", Fp4Config(), r"quantization=fp4: .* already quantized \(nf4 by bitsandbytes"),
        ("nf4", Nf4Config(double_quant=False), r"other settings: quantization.double_quant=False \(the checkpoint has True\), quantization.compute_dtype=bfloat16 \(the checkpoint has float32\)"),
        ("int8", Int8Config(threshold=5.0), r"quantization.threshold=5.0 \(the checkpoint has 6.0\)"),
        ("int8", TorchaoInt8Config(), r"quantization=torchao_int8: .* already quantized \(int8 by bitsandbytes"),
        ("torchao_int8", Int8DynamicConfig(), r"quantization=int8_dynamic: .* already quantized \(torchao_int8 by torchao\). Use quantization=none or quantization=torchao_int8"),
        ("int8_dynamic", Int8Config(), r"quantization=int8: .* already quantized \(int8_dynamic by torchao\). Use quantization=none or quantization=int8_dynamic"),
        ("torchao_int8", Nf4Config(), r"quantization=nf4: .* already quantized \(torchao_int8 by torchao\). Use quantization=none or quantization=torchao_int8"),
        ("int8", GptqConfig(), r"quantization=gptq: .* already quantized \(int8 by bitsandbytes"),
        ("nf4", GgufConfig(), "quantization=gguf needs a .gguf file, but model.name=.* is not a .gguf file"),
    ],
)  # fmt: skip
def test_it_is_not_quantized_again(
    quantized: Callable[[str], Path], kind: str, wanted: QuantizationConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_format(configure(quantized(kind), wanted))


def test_nothing_is_merged_into_it(quantized: Callable[[str], Path], tmp_path: Path) -> None:
    lora = PeftConfig(path=str(tmp_path), merge=True)
    with raises(ConfigError, "conflict", "lora.merge"):
        check_format(configure(quantized("int8"), lora=lora))


# --------------------------------------------------------------------------- GPTQ, AWQ: shape and
# refusals

GPTQ = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True, "quant_method": "gptq"}
AWQ = {"bits": 4, "group_size": 128, "zero_point": True, "version": "gemm", "quant_method": "awq"}


def save_packed(folder: Path, stored: dict[str, Any]) -> Path:
    """Save a Llama as GPTQ and AWQ do: its config, and packed layers of the right sizes, filled
    with noise."""
    from safetensors.torch import save_file

    settings = family_settings("llama", dtype="float16")
    settings.quantization_config = stored
    settings.save_pretrained(folder)
    tensors = {
        "model.embed_tokens.weight": torch.randn(259, 128).half(),
        "lm_head.weight": torch.randn(259, 128).half(),
    }
    for layer in range(2):
        for name, (rows, columns) in {"mlp.up_proj": (128, 192), "mlp.down_proj": (192, 128)}.items():
            path, groups = f"model.layers.{layer}.{name}", 2
            packed = (rows // 8, columns) if stored["quant_method"] == "gptq" else (rows, columns // 8)
            tensors[f"{path}.qweight"] = torch.randint(-(2**31), 2**31 - 1, packed, dtype=torch.int32)
            tensors[f"{path}.qzeros"] = torch.randint(
                -(2**31), 2**31 - 1, (groups, columns // 8), dtype=torch.int32
            )
            tensors[f"{path}.scales"] = torch.randn(groups, columns).half()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("stored", "wanted", "code", "key"),
    [
        (None, GptqConfig(), "mismatch", ""),
        (None, AwqConfig(), "mismatch", ""),
        (AWQ, GptqConfig(), "mismatch", "quantization"),
        (GPTQ, Nf4Config(), "mismatch", "quantization"),
        ({"quant_method": "fp9"}, NONE, "unsupported", ""),
        ({"bits": 4}, NONE, "unsupported", ""),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, stored: dict[str, Any] | None, wanted: QuantizationConfig, code: Code, key: str
) -> None:
    settings = family_settings("llama").to_dict() | ({"quantization_config": stored} if stored else {})
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with raises(ConfigError, code, key):
        check_format(configure(tmp_path, wanted))


@pytest.mark.parametrize("stored", [GPTQ, AWQ], ids=["gptq", "awq"])
def test_the_size_of_packed_layers_is_their_bytes(tmp_path: Path, stored: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    folder = save_packed(tmp_path / "packed", stored)
    tensors = load_file(folder / "model.safetensors")
    spec = configure(folder, dtype=Dtype.float16)
    assert predicted_bytes(spec) == sum(tensor.nbytes for tensor in tensors.values())
    layers = [tensor for tensor in read_tensor_headers(folder) if tensor.name.endswith("qweight")]
    stored_as = detect_stored_format(read_model_config(folder))
    assert {weight_sizes.count_linear_weights(tensor, stored_as) for tensor in layers} == {128 * 192}


@pytest.mark.parametrize(
    ("package", "quantization", "fix"),
    [
        ("bitsandbytes", Nf4Config(), "pip install bitsandbytes, or use quantization=none"),
        ("torchao", Int8DynamicConfig(), r"pip install 'runner-llm\[torchao\]', or use quantization=none"),
        ("torchao", TorchaoInt8Config(), r"pip install 'runner-llm\[torchao\]', or use quantization=none"),
    ],
)
def test_a_missing_library_is_named(
    saved_family: Saved, monkeypatch: pytest.MonkeyPatch, package: str, quantization: Any, fix: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    name = quantization.name
    with raises(ConfigError, "needs_package") as raised:
        load(saved_family(), quantization)
    assert f"quantization={name} needs {package}, " in raised.value.reason


@pytest.mark.thorough
def test_a_plan_refuses_without_torch(
    runner: Callable[..., Any], saved_family: Saved, quantized: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(quantized("nf4"), broken)
    (broken / "model.safetensors").write_bytes(b"")
    program = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\nfrom runner.__main__ import entry"
    arguments = ["plan=true", "model=local", f"model.name={broken}", "quantization=int8", "tracking=none"]
    program += f"\nsys.argv = ['runner', *{arguments!r}]\nentry()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "is already quantized (nf4 by bitsandbytes" in done.stdout
    assert "1 job: 1 impossible" in done.stdout
    real = runner("model=local", f"model.name={saved_family()}", "quantization=awq", "tracking=none")
    assert real.code == 2
    assert "quantization=awq loads checkpoints that are already quantized with it" in real.err


# -------------------------------------------------------------------------------------- model=local


@pytest.mark.thorough
def test_a_local_model_is_never_a_hub_id() -> None:
    program = """
import socket, sys
def refuse(*_): raise AssertionError("the network was touched")
socket.socket.connect = refuse
from runner_engine.settings.model import LocalConfig
from runner_base.errors import ConfigError
from runner_engine.checkpoints.locating import locate_model
try:
    locate_model(LocalConfig(name="org/model"))
except ConfigError as error:
    print(error, "huggingface_hub" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "model.name=org/model: " in done.stdout
    assert "org/model does not exist, and model=local does not download from the hub" in done.stdout
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize(
    "keys", [{"revision": "main"}, {"random_weights": True}], ids=lambda keys: next(iter(keys))
)
def test_keys_that_a_local_model_has_no_use_for(keys: dict[str, Any]) -> None:
    with raises(ConfigError, "unsupported", f"model.{next(iter(keys))}"):
        LocalConfig(name="x", **keys)
