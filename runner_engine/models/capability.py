"""Checks before any weight is read that need torch and the device; the load calls them."""

from __future__ import annotations

from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner_base import MIB, ConfigError, machine
from runner_base.notes import Note, note
from runner_engine.checkpoints import gguf_file, gguf_names
from runner_engine.checkpoints.resolve import ModelFiles, for_transformers
from runner_engine.models.building import one_at_a_time
from runner_engine.models.lora import module_of
from runner_engine.plan.memory_check import limited
from runner_engine.settings.model import Attention, LocalModelConfig

if TYPE_CHECKING:
    import torch


def rooms(model: LocalModelConfig, device: torch.device) -> dict[str, float]:
    """Return the free MiB in each place that the weights may go to, before anything is loaded."""
    import torch

    gpus = range(torch.cuda.device_count()) if model.device_map is not None else []
    if device.type == "cuda":
        gpus = gpus or [device.index or 0]
    free = {str(gpu): gpu_free_mib(gpu) for gpu in gpus}
    if device.type == "cpu" or model.device_map is not None:
        free["cpu"] = machine.available_mib()
    return limited(free, model.max_memory)


def gpu_free_mib(gpu: int) -> float:
    """Return the memory of a GPU that this process can still use now."""
    import torch

    reserved, allocated = torch.cuda.memory_reserved(gpu), torch.cuda.memory_allocated(gpu)
    return gpu_room_mib(torch.cuda.mem_get_info(gpu)[0], reserved, allocated)


def places_for(model: LocalModelConfig) -> tuple[dict[int | str, str], list[Note]]:
    """Return model.max_memory as accelerate takes it, and a note about GPUs that do not exist."""
    import torch

    count = torch.cuda.device_count()
    limits = model.max_memory or {}
    given: dict[int | str, str] = {int(at) if at.isdigit() else at: size for at, size in limits.items()}
    absent = [f"GPU {at}" for at in given if isinstance(at, int) and at >= count]
    if not absent:
        return given, []
    left = {at: size for at, size in given.items() if f"GPU {at}" not in absent}
    return left, [note("absent_gpus", gpus=", ".join(absent))]


def gpu_room_mib(free: int, reserved: int, allocated: int) -> float:
    """Return the memory of a GPU that this process can still use: what is free, and what it has
    reserved unused."""
    return (free + reserved - allocated) / MIB


def pick_attention(wanted: Attention, device: str, model_class: Any) -> tuple[Attention, list[Note]]:
    """Return an attention that runs here and that the model supports, and a note if it is not the
    wanted one."""
    supports = {
        Attention.sdpa: getattr(model_class, "_supports_sdpa", True),
        Attention.flash_attention_2: getattr(model_class, "_supports_flash_attn", True),
    }
    if not supports.get(wanted, True):
        others = [name.value for name in (Attention.sdpa, Attention.flash_attention_2) if supports[name]]
        raise ConfigError(
            f"{model_class.__name__} does not support it: "
            f"use model.attention={' or '.join([*others, 'eager'])}, or auto",
            key="model.attention",
            value=wanted.value,
            code="unsupported",
        )
    if wanted is not Attention.flash_attention_2:
        return wanted, []
    if device != "cuda":
        missing = note("no_cuda_gpu")
    elif find_spec("flash_attn") is None:
        missing = note("no_flash_attn")
    else:
        return wanted, []
    instead = Attention.sdpa if supports[Attention.sdpa] else Attention.eager
    return instead, [note("other_attention", missing=missing, used=instead.value)]


def settings_of(path: Path, trust_remote_code: bool = False) -> Any:
    """Return the config that transformers makes of a model's files, or would make of a .gguf
    file."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if path.is_file() and gguf_file.is_known(header := gguf_file.read_header(path)):
        settings = gguf_names.settings_of(header)
        return CONFIG_MAPPING[settings["model_type"]].from_dict(settings, name_or_path=str(path.parent))
    folder, arguments = for_transformers(path, trust_remote_code)
    return AutoConfig.from_pretrained(folder, **arguments)


@one_at_a_time
def skeleton(settings: Any, trust_remote_code: bool = False) -> Any:
    """Build a model from its config alone, without memory for weights, to check adapters and
    patches against it."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # from_config changes its argument
        return AutoModelForCausalLM.from_config(deepcopy(settings), trust_remote_code=trust_remote_code)


def class_of(path: Path, trust_remote_code: bool) -> Any:
    """Return the class that a checkpoint's config leads to; None if only the checkpoint's own code
    knows."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as KNOWN

    try:
        classes = KNOWN.get(type(settings_of(path, trust_remote_code)), None)
    except Exception:  # noqa: BLE001  # a library may raise anything over a user's files
        return None  # the load reports the error
    return classes[0] if isinstance(classes, list | tuple) else classes


def check_adapter(files: ModelFiles) -> None:
    """Check an adapter against the model's shape, before the weights are read."""
    lora, model = files.lora, files.model
    if lora is None or files.adapter is None:
        return
    try:
        bare = skeleton(settings_of(files.path, model.trust_remote_code), model.trust_remote_code)
    except Exception:  # noqa: BLE001  # custom code may need weights: the adapter is checked again on the real base
        bare = None
    module_of(lora).check(lora, files.adapter, bare, model.name)
