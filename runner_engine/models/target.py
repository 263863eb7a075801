"""A plan on the devices that torch has here: what is checked before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from runner_base import ConfigError, Dtype, check, machine
from runner_base.dtypes import dtype_for, stored_dtype
from runner_base.notes import Note, note
from runner_engine.models import capability, gguf_tokenizer, inventory
from runner_engine.plan import formats
from runner_engine.plan.load_plan import LoadPlan
from runner_engine.plan.memory_check import check_memory
from runner_engine.quantization.capabilities import ChecksDevice

MAX_KERNELS = 1024  # the default size of the cache


@dataclass(frozen=True)
class Target:
    """A plan in torch's terms."""

    plan: LoadPlan
    device: torch.device
    dtype: torch.dtype
    places: dict[int | str, str]  # model.max_memory as accelerate takes it
    notes: list[Note] = field(default_factory=list)


def target_of(plan: LoadPlan) -> Target:
    """Return where a model goes; ConfigError for what cannot work there. The marks of memory begin
    here."""
    files, model = plan.files, plan.files.model
    memory_notes = inventory.start_memory()
    limit_kernels()
    device = pick_device(model.device)
    for choice in plan.mix.choices:
        if isinstance(choice, ChecksDevice):
            choice.prepare(device.type)
    for adapted in plan.resolved.apart or [plan.resolved]:
        capability.check_adapter(adapted.files)
    dtype, notes = torch_dtype(files.dtype, model.dtype, files.settings)
    if device.type != plan.device and files.dtype != dtype_for(model.dtype, files.settings, device.type):
        notes = [note("no_gpu_after_all", dtype=files.dtype)]
    model_class = capability.class_of(files.path, model.trust_remote_code)
    places, absent = capability.places_for(model)
    attention, fallback = capability.pick_attention(plan.attention, device.type, model_class)
    plan = replace(plan, device=device.type, attention=attention)
    notes += absent + memory_notes + fallback + check_memory(plan, capability.rooms(model, device))
    notes += formats.notes(plan) + gguf_tokenizer.notes(files.path)
    return Target(plan, device, dtype, places, notes)


def limit_kernels() -> None:
    """Limit oneDNN's cache if memory is short: it makes a kernel of up to 0.5 MiB for each new
    shape."""
    machine.keep_kernels(int(min(max(machine.available_mib() / 8, 16), MAX_KERNELS)))


def pick_device(wanted: str) -> torch.device:
    """Return the device that model.device means; ConfigError if it does not exist."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        visible = f"{count} CUDA GPUs are visible" if count else "no CUDA GPU is visible"
        need = f"{visible}; use model.device=auto or cpu"
        check((device.index or 0) < count, "model.device", wanted, need, "not_found")
    return device


def entry_device(model: Any) -> torch.device:
    """Return the device for the prompts of a model that is spread over devices; accelerate moves
    data on from there."""
    embedding = model.get_input_embeddings()
    if embedding.weight.device.type != "meta":
        return torch.device(embedding.weight.device)
    # offloaded: its weights are there only while it computes
    hook = getattr(embedding, "_hf_hook", None)
    at = getattr(hook, "execution_device", "cpu")
    return torch.device("cuda", at) if isinstance(at, int) else torch.device(at)


def torch_dtype(name: str, wanted: Dtype, settings: dict[str, Any]) -> tuple[torch.dtype, list[Note]]:
    """Return torch's dtype, and a note if a float16 checkpoint runs in bfloat16 on a CPU."""
    if not isinstance(dtype := getattr(torch, name, None), torch.dtype):
        raise ConfigError(
            f"config.json says dtype={name!r}, which torch does not have: give model.dtype=bfloat16, or another",
            code="unsupported",
        )
    stored = stored_dtype(settings)
    is_other = wanted is Dtype.auto and name != stored
    return dtype, [note("slow_dtype", stored=stored, used=name)] if is_other else []
