"""Resolves a load plan to torch devices and dtypes, and checks the plan before weights are read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from runner_base import ConfigError, Dtype, check_value, machine
from runner_base.dtypes import find_stored_dtype, resolve_dtype
from runner_base.notes import Note, note
from runner_engine.models import gguf_tokenizer, inventory, load_checks
from runner_engine.plan import format_check
from runner_engine.plan.load_plan import LoadPlan
from runner_engine.plan.memory_check import check_memory
from runner_engine.quantization.capabilities import DeviceChecker

MAX_KERNELS = 1024  # the default size of the cache


@dataclass(frozen=True)
class LoadTarget:
    """A load plan with its torch device, dtype and memory limits."""

    plan: LoadPlan
    device: torch.device
    dtype: torch.dtype
    places: dict[int | str, str]  # model.max_memory as accelerate takes it
    notes: list[Note] = field(default_factory=list)


def resolve_load_target(plan: LoadPlan) -> LoadTarget:
    """Resolve a load plan to torch devices and dtypes. Raises ConfigError if this machine cannot
    execute the plan.

    Also resets the peak-memory counters.
    """
    files, model = plan.files, plan.files.model
    memory_notes = inventory.reset_memory_peaks()
    limit_onednn_cache()
    device = select_device(model.device)
    for choice in plan.quantization_mix.quantizing_configs:
        if isinstance(choice, DeviceChecker):
            choice.check_device(device.type)
    for adapted in plan.resolved.single_adapter_models or [plan.resolved]:
        load_checks.check_adapter_fits_model(adapted.files)
    dtype, notes = select_torch_dtype(files.dtype, model.dtype, files.settings)
    if device.type != plan.device and files.dtype != resolve_dtype(model.dtype, files.settings, device.type):
        notes = [note("no_gpu_after_all", dtype=files.dtype)]
    model_class = load_checks.find_model_class(files.path, model.trust_remote_code)
    places, absent = load_checks.convert_max_memory_for_accelerate(model)
    attention, fallback = load_checks.select_attention_backend(plan.attention, device.type, model_class)
    plan = replace(plan, device=device.type, attention=attention)
    notes += (
        absent
        + memory_notes
        + fallback
        + check_memory(plan, load_checks.measure_free_memory_mib(model, device))
    )
    notes += format_check.build_stored_format_notes(plan) + gguf_tokenizer.build_slow_tokenizer_notes(
        files.path
    )
    return LoadTarget(plan, device, dtype, places, notes)


def limit_onednn_cache() -> None:
    """Limit oneDNN's kernel cache if memory is short. Each new matmul shape adds up to 0.5 MiB to
    the cache.
    """
    machine.limit_kernel_caches(int(min(max(machine.available_memory_mib() / 8, 16), MAX_KERNELS)))


def select_device(device_name: str) -> torch.device:
    """Return the torch device that model.device names. Raises ConfigError if the device does not
    exist.
    """
    if device_name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(device_name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        visible = f"{count} CUDA GPUs are visible" if count else "no CUDA GPU is visible"
        need = f"{visible}; use model.device=auto or cpu"
        check_value((device.index or 0) < count, "model.device", device_name, need, "not_found")
    return device


def find_input_device(model: Any) -> torch.device:
    """Return the device on which a model expects its input tokens, even if the model spans several
    devices.
    """
    embedding = model.get_input_embeddings()
    if embedding.weight.device.type != "meta":
        return torch.device(embedding.weight.device)
    # offloaded: its weights are there only while it computes
    hook = getattr(embedding, "_hf_hook", None)
    at = getattr(hook, "execution_device", "cpu")
    return torch.device("cuda", at) if isinstance(at, int) else torch.device(at)


def select_torch_dtype(name: str, requested: Dtype, config: dict[str, Any]) -> tuple[torch.dtype, list[Note]]:
    """Return the torch dtype to load with. Also returns a note if dtype=auto selects another dtype
    than the checkpoint's.
    """
    if not isinstance(dtype := getattr(torch, name, None), torch.dtype):
        raise ConfigError(
            f"config.json sets dtype={name!r}, which torch does not know. "
            "Set a dtype yourself, for example model.dtype=bfloat16",
            code="unsupported",
        )
    stored = find_stored_dtype(config)
    is_other = requested is Dtype.auto and name != stored
    return dtype, [note("slow_dtype", stored=stored, used=name)] if is_other else []
