"""Errors come before a weight is read: the weights here are garbage or absent, so reading them
would be noticed."""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from opening import check_memory, load_base, make_spec
from raising import raises

from runner_base import machine
from runner_base.errors import Code, ConfigError
from runner_base.notes import note
from runner_engine.checkpoints import file_io, random_weights
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.local.preload_checks import check_model_and_adapter_files
from runner_engine.models import load_checks
from runner_engine.plan.memory_check import limit_free_memory, parse_size_mib
from runner_engine.quantization.bitsandbytes import Int8Config
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import AdapterConfig, PeftConfig, PthConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.rope import Rope2dConfig

MAIN = "main memory"
SHAPE = LocalModelConfig(name="org/shape", shape="qwen25_7b_instruct", random_weights=True, device="cpu")


def spoil(folder: Path, to: Path, size: int = 300_000) -> Path:
    """Copy a model's folder, with garbage in place of its weights."""
    shutil.copytree(folder, to)
    for file in to.glob("*.safetensors"):
        file.write_bytes(b"\xff" * size)
    return to


@pytest.fixture(scope="module")
def spoilt(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoil(tiny_llama, tmp_path_factory.mktemp("spoilt") / "llama")


@pytest.fixture(scope="module")
def bloom(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bloom without weights; transformers has no sdpa or flash attention for it, and it has no
    rotary pairs."""
    from transformers import BloomConfig

    folder = tmp_path_factory.mktemp("bloom")
    config = BloomConfig(
        vocab_size=259, hidden_size=32, n_layer=1, n_head=2, architectures=["BloomForCausalLM"]
    )
    config.save_pretrained(folder)
    for file in tiny_llama.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def on_cpu(folder: Path, **keys: Any) -> LocalModelConfig:
    return LocalModelConfig(name=str(folder), device="cpu", **keys)


# ---------------------------------------------------------------------------------------- the shape


def test_the_garbage_would_show(spoilt: Path) -> None:
    with raises(ConfigError, "damaged"):
        load_base(make_spec(model=on_cpu(spoilt)))


def test_rope_2d_without_rotary_pairs(bloom: Path) -> None:
    with raises(ConfigError, "unsupported", "rope"):
        load_base(make_spec(model=on_cpu(bloom), rope=Rope2dConfig()))


def test_attention_that_the_architecture_does_not_have(bloom: Path) -> None:
    for wanted in (Attention.sdpa, Attention.flash_attention_2):
        model = on_cpu(bloom, attention=wanted)
        with raises(ConfigError, "unsupported", "model.attention") as raised:
            load_base(make_spec(model=model))
        assert raised.value.value == wanted.value


def test_flash_attention_falls_back_to_what_the_model_has() -> None:
    from transformers import GPTJForCausalLM, LlamaForCausalLM

    wanted = Attention.flash_attention_2
    assert load_checks.select_attention_backend(wanted, "cpu", LlamaForCausalLM)[0] is Attention.sdpa
    assert load_checks.select_attention_backend(wanted, "cpu", GPTJForCausalLM) == (
        Attention.eager,
        [note("other_attention", missing=note("no_cuda_gpu"), used="eager")],
    )
    _, [fallback] = load_checks.select_attention_backend(wanted, "cuda", LlamaForCausalLM)
    assert fallback.values["missing"] == note("no_flash_attn")
    assert load_checks.select_attention_backend(Attention.auto, "cuda", None) == (Attention.auto, [])


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    # peft's own
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), settings).save_pretrained(str(folder))
    return folder


def changed(adapter: Path, to: Path, tensors: Callable[[str, Any], tuple[str, Any]], **settings: Any) -> Path:
    """Copy an adapter with other tensors and settings."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, to)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(tensors(key, weight) for key, weight in weights.items()), to / "adapter_model.safetensors")
    known = json.loads((adapter / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps(known | settings))
    return to


CHANGES: dict[str, tuple[Callable[[str, Any], tuple[str, Any]], dict[str, Any], Code]] = {
    "size": (lambda key, w: (key, w[:, :-1].contiguous() if "lora_A" in key else w), {}, "mismatch"),
    "rank": (lambda key, w: (key, w), {"r": 8}, "damaged"),
    "modules": (
        lambda key, w: (key.replace("layers", "blocks"), w),
        {"target_modules": ["query", "out"]},
        "not_found",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_peft_adapter_that_does_not_fit(spoilt: Path, adapter: Path, tmp_path: Path, what: str) -> None:
    tensors, settings, code = CHANGES[what]
    folder = changed(adapter, tmp_path / what, tensors, **settings)
    with raises(ConfigError, code, f"lora.path={folder} does not fit model.name={spoilt}"):
        load_base(make_spec(model=on_cpu(spoilt), lora=PeftConfig(path=str(folder))))


def test_a_peft_adapter_that_fits_is_not_what_stops_the_load(spoilt: Path, adapter: Path) -> None:
    with raises(ConfigError, "damaged"):
        load_base(make_spec(model=on_cpu(spoilt), lora=PeftConfig(path=str(adapter))))


@pytest.mark.parametrize(
    ("path", "size", "code"),
    [
        ("model.layers.0.self_attn.q_proj", 32, "mismatch"),
        ("model.layers.9.self_attn.q_proj", 64, "not_found"),
    ],
)
def test_a_pth_adapter_that_does_not_fit(
    spoilt: Path, tmp_path: Path, path: str, size: int, code: Code
) -> None:
    file = tmp_path / "adapter.pth"
    torch.save(
        {f"{path}.lora.A.weight": torch.ones(4, size), f"{path}.lora.B.weight": torch.ones(size, 4)}, file
    )
    with raises(ConfigError, code, f"lora.path={file}"):
        load_base(make_spec(model=on_cpu(spoilt), lora=PthConfig(path=str(file))))


def test_merging_into_a_checkpoint_that_is_quantized_already(
    spoilt: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "quantized"
    shutil.copytree(spoilt, folder)
    settings = json.loads((folder / "config.json").read_text())
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (folder / "config.json").write_text(json.dumps(settings | {"quantization_config": stored}))
    kinds: list[AdapterConfig] = [
        PeftConfig(path=str(adapter), merge=True),
        PthConfig(path="./x.pth", merge=True),
    ]
    for lora in kinds:
        spec = make_spec(model=on_cpu(folder), lora=lora)
        with raises(ConfigError, "conflict", "lora.merge"):
            check_model_and_adapter_files(resolve_model(spec))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("arguments", [["rope=rope_2d"], ["model.attention=sdpa"]], ids=["rope", "attention"])
def test_one_message_and_exit_code_2(runner: Callable[..., Any], bloom: Path, arguments: list[str]) -> None:
    (bloom / "model.safetensors").write_bytes(b"\xff" * 100_000)
    plain = ["model=auto", f"model.name={bloom}", "model.device=cpu", "tracking=none", "task.limit=1"]
    done = runner(*plain, "task.prompt=text", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert [line for line in done.err.splitlines() if line.startswith("error: ")] == [
        done.err.splitlines()[-1]
    ]
    assert arguments[0] in done.err
    assert "Traceback" not in done.err


# ------------------------------------------------------------------------------------- bitsandbytes


def broken_bitsandbytes(folder: Path, cextension: str) -> dict[str, str]:
    """Make a bitsandbytes package that does not run; return the environment in which Python imports
    it."""
    (folder / "bitsandbytes").mkdir()
    (folder / "bitsandbytes" / "__init__.py").write_text("")
    (folder / "bitsandbytes" / "cextension.py").write_text(cextension)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.thorough
@pytest.mark.slow
def test_bitsandbytes_that_cannot_be_imported(runner: Callable[..., Any], tmp_path: Path) -> None:
    environment = broken_bitsandbytes(tmp_path, "raise OSError('libbitsandbytes.so: wrong ELF class')")
    done = runner("quantization=int8", "tracking=none", "task.limit=1", "model.device=cpu", **environment)
    assert done.code == 2
    message = "quantization=int8: bitsandbytes is installed but does not run on this platform (libbitsandbytes.so: wrong"
    assert message in done.err


def test_bitsandbytes_without_a_library_for_this_gpu(tmp_path: Path) -> None:
    library = "class lib: error_msg = 'CUDA version mismatch'"
    program = """
from runner_engine.quantization.bitsandbytes import Int8Config
Int8Config().check_device("cpu")
Int8Config().check_device("cuda")
"""
    env = os.environ | broken_bitsandbytes(tmp_path, library)
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert "line 4" in done.stderr
    assert "does not run on this platform (CUDA version mismatch). Install a version" in done.stderr


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bitsandbytes_here_is_usable(device: str) -> None:
    """Its native library is loaded, which answers every name that is asked for with a function."""
    Int8Config().check_device(device)


# ------------------------------------------------------------------------------------------- memory


def test_weights_that_do_not_fit() -> None:
    spec = make_spec(model=SHAPE)
    message = (
        r"model.name=org/shape with quantization=none: the weights need 14,526 MiB, but only 9,000 MiB of main memory are "
        r"free. Use quantization=nf4 \(5,290 MiB\), a smaller model, or model.check_memory=false"
    )
    with pytest.raises(ConfigError, match=message):
        check_memory(spec, {MAIN: 9000})
    with pytest.raises(ConfigError) as caught:  # 4 bit would not help, another place would
        check_memory(spec, {"GPU 0": 4000})
    assert "quantization=nf4" not in str(caught.value)
    assert "4,000 MiB of GPU 0 are free. Use a smaller model, model.device=auto model.device_map=auto" in str(
        caught.value
    )
    assert check_memory(spec, {"GPU 0": 10_000, MAIN: 20_000}) == []


def test_memory_that_gets_short_is_a_note() -> None:
    generation = GenerationConfig(batch_size=64, max_new_tokens=512)
    spec = make_spec(model=SHAPE, generation=generation)
    (short,) = check_memory(spec, {MAIN: 15_000})
    # 28 layers, 4 key-value heads of 128, keys and values, 2 bytes, 64 rows of 512 + 512 positions
    assert (short.code, short.values["kv_cache_mib"]) == (
        "memory_short",
        28 * 4 * 128 * 2 * 2 * 64 * 1024 / 2**20,
    )
    assert short.values["free"] == "15,000 MiB of main memory"
    assert check_memory(spec, {MAIN: 30_000}) == []


def test_the_check_can_be_switched_off() -> None:
    spec = make_spec(model=dataclasses.replace(SHAPE, check_memory=False))
    assert check_memory(spec, {MAIN: 1}) == []


def test_rooms_are_cut_to_max_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"0": 40_000.0, "1": 2_000.0, "cpu": 64_000.0}
    assert limit_free_memory(free, None) == {"GPU 0": 40_000, "GPU 1": 2_000, MAIN: 64_000}
    cut = limit_free_memory(free, {"0": "1.5GiB", "cpu": "3GB"})
    assert cut == {"GPU 0": 1536, "GPU 1": 0, MAIN: pytest.approx(3e9 / 2**20)}
    assert parse_size_mib("800MB") == pytest.approx(8e8 / 2**20)
    assert (
        load_checks.compute_usable_gpu_mib(
            free_bytes=2 * 2**20, reserved_bytes=5 * 2**20, allocated_bytes=2**20
        )
        == 6
    )
    if not torch.cuda.is_available():
        monkeypatch.setattr(machine, "available_memory_mib", lambda: 12_345.0)
        assert load_checks.measure_free_memory_mib(SHAPE, torch.device("cpu")) == {MAIN: 12_345.0}


def group(folder: Path, limit: str, used: int, cached: int, names: tuple[str, str], prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (limit, str(used)), strict=True):
        (folder / name).write_text(f"{text}\n")
    (folder / "memory.stat").write_text(
        f"anon 5\n{prefix}active_file {cached}\n{prefix}inactive_file {cached}\n"
    )


def test_a_container_has_less_than_its_machine(tmp_path: Path) -> None:
    mib, own = 2**20, tmp_path / "cgroup"
    two, one = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(tmp_path / "v2" / "a", str(100 * mib), 70 * mib, 5 * mib, two)
    group(tmp_path / "v2" / "a" / "b", "max", 70 * mib, 5 * mib, two)
    own.write_text("0::/a/b\n")
    assert machine.read_cgroup_free_mib(own, tmp_path / "v2") == [40]
    # beyond it, processes are made to wait
    (tmp_path / "v2" / "a" / "b" / "memory.high").write_text(f"{90 * mib}\n")
    stat = tmp_path / "v2" / "a" / "b" / "memory.stat"
    # mapped files are in use
    stat.write_text(f"{stat.read_text()}file_mapped {4 * mib}\nslab_reclaimable {mib}\n")
    assert machine.read_cgroup_free_mib(own, tmp_path / "v2") == [27, 40]
    stat.write_text(f"file_mapped {4 * mib}\n")
    assert machine.read_cgroup_free_mib(own, tmp_path / "v2") == [20, 40]
    group(tmp_path / "v1" / "memory", str(10 * mib), 20 * mib, 1 * mib, one, "total_")
    own.write_text("5:cpu,cpuacct:/x\n4:memory:/gone\n")
    assert machine.read_cgroup_free_mib(own, tmp_path / "v1") == [0]
    assert machine.read_cgroup_free_mib(tmp_path / "nothing", tmp_path) == []
    assert 0 < machine.available_memory_mib() < 1e9


def test_a_containers_share_of_time_counts_as_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "cgroup"
    (tmp_path / "v2" / "a" / "b").mkdir(parents=True)
    (tmp_path / "v2" / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "v2" / "a" / "b" / "cpu.max").write_text("max 100000\n")
    own.write_text("0::/a/b\n")
    assert machine.read_cgroup_cpu_limits(own, tmp_path / "v2") == [1.5]
    (tmp_path / "v1" / "cpu").mkdir(parents=True)
    (tmp_path / "v1" / "cpu" / "cpu.cfs_quota_us").write_text("400000\n")
    (tmp_path / "v1" / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    own.write_text("5:cpu,cpuacct:/gone\n4:memory:/x\n")
    assert machine.read_cgroup_cpu_limits(own, tmp_path / "v1") == [4]
    (tmp_path / "v1" / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.read_cgroup_cpu_limits(own, tmp_path / "v1") == []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for shares, cores in (([], 64), ([2.0], 2), ([1.5, 8.0], 2), ([0.2], 1), ([99.0], 64)):
        monkeypatch.setattr(machine, "read_cgroup_cpu_limits", lambda shares=shares: shares)
        assert machine.count_available_cpu_cores() == cores


@pytest.mark.slow
def test_a_plan_says_what_does_not_fit(
    runner: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory_mib", lambda: 20_000.0)
    monkeypatch.setattr(file_io, "get_free_disk_bytes", lambda _: 2**40)
    arguments = (
        "model=qwen3_8b",
        "model.random_weights=true",
        "model.dtype=float32",
        "model.device=cpu",
        "plan=true",
    )
    done = runner(*arguments, f"model.cache_dir={tmp_path}")
    assert "impossible" in done.out
    assert "the weights need 31,2" in done.out
    assert not list(tmp_path.rglob("*.safetensors"))


# --------------------------------------------------------------------------------------------- disk


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=7 if path == tmp_path else 0))
        assert file_io.get_free_disk_bytes(tmp_path / "not" / "yet") == 7, "the folder above it that exists"
    model = dataclasses.replace(SHAPE, cache_dir=str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(file_io, "get_free_disk_bytes", lambda _: 100 * 2**20)
    with raises(ConfigError, "too_large") as raised:
        random_weights.check_random_checkpoint_disk_space(model)
    assert "100.0 MiB" in raised.value.reason
    monkeypatch.setattr(file_io, "get_free_disk_bytes", lambda _: 2**40)
    random_weights.check_random_checkpoint_disk_space(model)


class HugeHub(http.server.BaseHTTPRequestHandler):
    """A hub whose one model is larger than any disk."""

    def do_GET(self) -> None:
        known = "/api/models/org/huge" in self.path
        siblings = [
            {"rfilename": "config.json", "size": 7},
            {"rfilename": "model.safetensors", "size": 10**18},
        ]
        data = json.dumps(
            {"id": "org/huge", "sha": "a" * 40, "siblings": siblings if "blobs" in self.path else []}
        )
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(data.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.mark.slow
def test_a_download_that_is_too_large(runner: Callable[..., Any], tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HugeHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    online = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
    }
    try:
        done = runner("model=auto", "model.name=org/huge", "tracking=none", **online)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.code == 2
    (message,) = done.err.strip().splitlines()
    assert message.startswith("error: model.name=org/huge: the download needs 953,674,316,406.2 MiB in ")
    assert message.endswith(
        "choose a larger disk with model.cache_dir=FOLDER or HF_HOME, or use a smaller model"
    )
