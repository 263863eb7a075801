"""From config to a loaded model: locate, quantize, adapt – and a report of what is really there."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from runner import machine
from runner.config import AdapterConfig, Attention, Dtype, PeftConfig, PthConfig, RunnerConfig
from runner.errors import ConfigError
from runner.model import lora as lora_room
from runner.model import lora_pth as pth_room
from runner.model import quantization as quantization_room
from runner.model import rope as rope_room
from runner.model.source import locate, locate_adapter

log = logging.getLogger(__name__)

# Below this, handing work to a second thread costs more than it saves; beside other busy processes, where one
# thread waits for the other at every layer, it costs a hundred times more.
ONE_THREAD_BELOW_PARAMETERS = 50_000_000


@dataclass
class Loaded:
    """A model with its tokenizer, and what was found on the way."""

    model: Any
    tokenizer: Any
    device: torch.device
    bytes_by_dtype: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load_base(config: RunnerConfig) -> Loaded:
    """Load what the groups model, quantization and rope describe: the part that several jobs can share."""
    # bitsandbytes looks for optional kernels on a hub when it is imported, and warns when it finds none
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    folder = locate(config.model)
    adapter = locate_adapter(config.lora, config.model)  # an adapter that is not there is said before the load
    if isinstance(config.lora, PthConfig):
        assert adapter is not None
        pth_room.check(config.lora, adapter, folder, config.model.name, config.model.trust_remote_code)
    device = pick_device(config.model.device)
    dtype, notes = pick_dtype(config.model.dtype, folder, device)
    attention, fallback = pick_attention(config.model.attention, device)
    notes += fallback
    quantization = quantization_room.transformers_config(config.quantization)

    started = time.perf_counter()
    model = _from_pretrained(config, folder, device, dtype, quantization, attention)
    if config.model.device_map is not None:
        device = model.get_input_embeddings().weight.device  # where prompts go in; accelerate moves them on
    base = Loaded(model, _tokenizer(config, folder), device, notes=notes)
    base.metrics["load_s"] = time.perf_counter() - started
    _describe_base(base, config)
    return base


def adapt(base: Loaded, config: RunnerConfig) -> Loaded:
    """Put the job's adapter and thread count on a base, and report the two together."""
    started = time.perf_counter()
    loaded = replace(
        base,
        bytes_by_dtype=dict(base.bytes_by_dtype),
        metrics=dict(base.metrics),
        facts=dict(base.facts),
        notes=list(base.notes),
    )
    adapter = locate_adapter(config.lora, config.model)
    if isinstance(config.lora, AdapterConfig):
        assert adapter is not None
        if isinstance(config.lora, PthConfig):
            report = pth_room.apply(base.model, config.lora, adapter, config.model.name)
        else:
            assert isinstance(config.lora, PeftConfig)
            loaded.model, report = lora_room.apply(base.model, config.lora, adapter, config.model.name)
        loaded.notes += report.notes
        loaded.metrics |= {
            "lora_modules": report.modules,
            "lora_rank": report.rank,
            "lora_parameters": report.parameters,
            "lora_delta_norm": report.delta_norm,
        }
        for dtype, size in lora_room.weight_bytes(loaded.model).items():
            loaded.bytes_by_dtype[dtype] = loaded.bytes_by_dtype.get(dtype, 0) + size
    threads = config.model.threads or default_threads(loaded.model.num_parameters())
    torch.set_num_threads(threads)
    loaded.facts["threads"] = str(threads)
    loaded.metrics["load_s"] += time.perf_counter() - started
    _describe_weights(loaded)
    return loaded


def release(loaded: Loaded, config: RunnerConfig) -> bool:
    """Take the job's adapter off again; False when the base cannot be had back as it was."""
    if not isinstance(config.lora, AdapterConfig):
        return True
    if config.lora.merge:
        return False
    if isinstance(config.lora, PthConfig):
        pth_room.detach(loaded.model)
    else:
        loaded.model.unload()  # puts the base's own modules back where they were
    return True


def default_threads(parameters: int) -> int:
    """Return how many CPU threads suit a model of this size; a rule, not a race, so that answers stay the same."""
    return 1 if parameters < ONE_THREAD_BELOW_PARAMETERS else machine.cores()


def pick_device(wanted: str) -> torch.device:
    """Turn model.device into a device that is there."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            have = f"{count} CUDA GPUs are visible" if count else "no CUDA GPU is visible"
            raise ConfigError(f"model.device={wanted}: {have}; use model.device=auto or cpu")
    return device


def pick_attention(wanted: Attention, device: torch.device) -> tuple[Attention, list[str]]:
    """Turn model.attention into one that runs here; a fallback is said, never silent."""
    if wanted is not Attention.flash_attention_2:
        return wanted, []
    missing = "there is no CUDA GPU" if device.type != "cuda" else ""
    if not missing and find_spec("flash_attn") is None:
        missing = "the package flash_attn is not installed"
    if not missing:
        return wanted, []
    return Attention.sdpa, [f"model.attention=flash_attention_2: {missing}, so sdpa is used"]


def pick_dtype(wanted: Dtype, folder: Path, device: torch.device) -> tuple[torch.dtype, list[str]]:
    """Turn model.dtype into a dtype; a float16 checkpoint runs in bfloat16 on a CPU, and that is said."""
    if wanted is not Dtype.auto:
        return getattr(torch, wanted.value), []
    settings = json.loads((folder / "config.json").read_text())
    name = settings.get("dtype") or settings.get("torch_dtype") or "float32"
    if name == "float16" and device.type == "cpu":
        return torch.bfloat16, ["the checkpoint is float16, several times slower on a CPU: bfloat16 is used"]
    return getattr(torch, name), []


def _from_pretrained(
    config: RunnerConfig,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Any,
    attention: Attention,
) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    settings: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}, "local_files_only": True}
    if config.model.device_map is not None:
        settings["device_map"] = config.model.device_map
        sizes = config.model.max_memory or {}
        settings["max_memory"] = {int(at) if at.isdigit() else at: size for at, size in sizes.items()} or None
    settings["trust_remote_code"] = config.model.trust_remote_code
    if quantization is not None:
        settings["quantization_config"] = quantization
    if attention is not Attention.auto:
        settings["attn_implementation"] = attention.value
    try:
        scaled = rope_room.prepare(config.rope, folder, config.model.trust_remote_code)
        if scaled is not None:
            settings["config"] = scaled
        model = AutoModelForCausalLM.from_pretrained(folder, **settings).eval()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first_lines = " ".join(str(error).split())[:400]
        raise ConfigError(f"model.name={config.model.name} cannot be loaded from {folder}: {first_lines}") from error
    if quantization is not None:
        quantization_room.check_kernels(model, config.quantization.name)
    rope_room.apply(model, config.rope)
    return model


def _tokenizer(config: RunnerConfig, folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=config.model.trust_remote_code,
            padding_side="left",
        )
    except (OSError, ValueError, KeyError) as error:
        first_lines = " ".join(str(error).split())[:300]
        raise ConfigError(f"model.name={config.model.name}: no usable tokenizer in {folder}: {first_lines}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked out: which token stands there is all one
    return tokenizer


def _describe_base(base: Loaded, config: RunnerConfig) -> None:
    model = base.model
    settings = model.config.get_text_config()
    quantized = quantization_room.quantized_modules(model)
    if config.quantization.name != "none" and quantized == 0:
        raise ConfigError(f"quantization={config.quantization.name} found no linear layer to quantize in this model")
    # now, not later: bitsandbytes' CPU kernels repack the weights in their first forward pass
    base.bytes_by_dtype = quantization_room.weight_bytes(model)
    base.metrics |= {
        "parameters": model.num_parameters(),
        "quantized_modules": quantized,
        "vocab_size": settings.vocab_size,
        **rope_room.measure(model, config.rope),
    }
    base.notes += rope_room.notes(settings, config.rope)
    base.facts |= {
        "architecture": (settings.architectures or model.config.architectures or [type(model).__name__])[0],
        "device": _places(model, base.device),
        "attention": str(getattr(settings, "_attn_implementation", "unknown")),
        "rope": rope_room.describe(model),
    }
    for note in base.notes:
        log.warning("note: %s", note)


def _places(model: Any, device: torch.device) -> str:
    """Name where the weights are: one device, or how many modules each place of a device map holds."""
    places: dict[Any, Any] = getattr(model, "hf_device_map", None) or {}
    if len(set(map(str, places.values()))) < 2:
        return str(device)
    counts = Counter(map(str, places.values()))
    return ", ".join(f"{place}: {count} modules" for place, count in counts.items())


def _describe_weights(loaded: Loaded) -> None:
    loaded.metrics["weight_mib"] = sum(loaded.bytes_by_dtype.values()) / machine.MIB
    sizes = (f"{name} {size / machine.MIB:.2f} MiB" for name, size in sorted(loaded.bytes_by_dtype.items()))
    loaded.facts["dtype"] = ", ".join(sizes)
