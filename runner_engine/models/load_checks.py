"""Checks that need torch and the device, run before a model's weights are read."""

from __future__ import annotations

from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner_base import MIB, ConfigError, machine
from runner_base.notes import Note, note
from runner_engine.checkpoints import gguf_file, gguf_names
from runner_engine.checkpoints.resolved_model import ModelFiles, build_from_pretrained_arguments
from runner_engine.models.build_lock import forbid_concurrent_builds
from runner_engine.models.lora import import_adapter_module
from runner_engine.plan.memory_check import limit_free_memory
from runner_engine.settings.model import Attention, LocalModelConfig

if TYPE_CHECKING:
    import torch


def measure_free_memory_mib(model: LocalModelConfig, device: torch.device) -> dict[str, float]:
    """Return the free memory in MiB of each device on which weights may be placed."""
    import torch

    gpus = range(torch.cuda.device_count()) if model.device_map is not None else []
    if device.type == "cuda":
        gpus = gpus or [device.index or 0]
    free = {str(gpu): measure_usable_gpu_mib(gpu) for gpu in gpus}
    if device.type == "cpu" or model.device_map is not None:
        free["cpu"] = machine.available_memory_mib()
    return limit_free_memory(free, model.max_memory)


def measure_usable_gpu_mib(gpu_index: int) -> float:
    """Return how many MiB of GPU memory this process can still allocate."""
    import torch

    reserved, allocated = torch.cuda.memory_reserved(gpu_index), torch.cuda.memory_allocated(gpu_index)
    return compute_usable_gpu_mib(torch.cuda.mem_get_info(gpu_index)[0], reserved, allocated)


def convert_max_memory_for_accelerate(model: LocalModelConfig) -> tuple[dict[int | str, str], list[Note]]:
    """Convert model.max_memory to accelerate's format. Also returns a note if a listed GPU does not exist."""
    import torch

    count = torch.cuda.device_count()
    limits = model.max_memory or {}
    given: dict[int | str, str] = {int(at) if at.isdigit() else at: size for at, size in limits.items()}
    absent = [f"GPU {at}" for at in given if isinstance(at, int) and at >= count]
    if not absent:
        return given, []
    left = {at: size for at, size in given.items() if f"GPU {at}" not in absent}
    return left, [note("absent_gpus", gpus=", ".join(absent))]


def compute_usable_gpu_mib(free_bytes: int, reserved_bytes: int, allocated_bytes: int) -> float:
    """Return the usable GPU memory in MiB: free memory, plus memory that torch has reserved but not
    allocated.
    """
    return (free_bytes + reserved_bytes - allocated_bytes) / MIB


def select_attention_backend(
    requested: Attention, device: str, model_class: Any
) -> tuple[Attention, list[Note]]:
    """Select an attention backend that device and model support. Also returns a note if the
    requested one is replaced.
    """
    supports = {
        Attention.sdpa: getattr(model_class, "_supports_sdpa", True),
        Attention.flash_attention_2: getattr(model_class, "_supports_flash_attn", True),
    }
    if not supports.get(requested, True):
        others = [name.value for name in (Attention.sdpa, Attention.flash_attention_2) if supports[name]]
        raise ConfigError(
            f"{model_class.__name__} does not support this attention. "
            f"Use model.attention={' or '.join([*others, 'eager'])}, or auto",
            key="model.attention",
            value=requested.value,
            code="unsupported",
        )
    if requested is not Attention.flash_attention_2:
        return requested, []
    if device != "cuda":
        missing = note("no_cuda_gpu")
    elif find_spec("flash_attn") is None:
        missing = note("no_flash_attn")
    else:
        return requested, []
    instead = Attention.sdpa if supports[Attention.sdpa] else Attention.eager
    return instead, [note("other_attention", missing=missing, used=instead.value)]


def load_transformers_config(path: Path, trust_remote_code: bool = False) -> Any:
    """Return the transformers config of a checkpoint folder or .gguf file."""
    from transformers import CONFIG_MAPPING, AutoConfig

    if path.is_file() and gguf_file.is_supported_architecture(header := gguf_file.read_gguf_header(path)):
        settings = gguf_names.build_transformers_config_dict(header)
        return CONFIG_MAPPING[settings["model_type"]].from_dict(settings, name_or_path=str(path.parent))
    folder, arguments = build_from_pretrained_arguments(path, trust_remote_code)
    return AutoConfig.from_pretrained(folder, **arguments)


@forbid_concurrent_builds
def build_meta_model(config: Any, trust_remote_code: bool = False) -> Any:
    """Build a model from its config on the meta device, which allocates no memory for weights.

    Adapters and patches are checked against this model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # from_config changes its argument
        return AutoModelForCausalLM.from_config(deepcopy(config), trust_remote_code=trust_remote_code)


def find_model_class(path: Path, trust_remote_code: bool) -> Any:
    """Return the transformers class of a checkpoint's model. None for classes that the checkpoint's
    own code defines.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as KNOWN

    try:
        classes = KNOWN.get(type(load_transformers_config(path, trust_remote_code)), None)
    except Exception:  # noqa: BLE001  # a library may raise anything over a user's files
        return None  # the load reports the error
    return classes[0] if isinstance(classes, list | tuple) else classes


def check_adapter_fits_model(files: ModelFiles) -> None:
    lora, model = files.lora, files.model
    if lora is None or files.adapter is None:
        return
    try:
        bare = build_meta_model(
            load_transformers_config(files.path, model.trust_remote_code), model.trust_remote_code
        )
    except Exception:  # noqa: BLE001  # custom code may need weights: the adapter is checked again on the real base
        bare = None
    import_adapter_module(lora).check(lora, files.adapter, bare, model.name)
