"""The command line of vLLM's server for a job, and the variables that it gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.options.remote.vllm.environment import Environment, environment_of
from runner.options.remote.vllm.gpus import batch_invariant
from runner.options.remote.vllm.keys import VllmConfig, vllm_model
from runner_base import load_json
from runner_base.dtypes import dtype_for
from runner_engine import ModelFiles

ADAPTER = "adapter"  # the name under which the server has it
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for
CPU_KV_GIB = 4  # for keys and values on a CPU, unless the user says
KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
OWN_VARIABLES = {"VLLM_API_KEY", "VLLM_NO_USAGE_STATS", "VLLM_BATCH_INVARIANT", KV_SPACE}


def name_of(model: VllmConfig) -> str:
    """Return the name under which the server has the model: its own, or the last part of its
    folder's path."""
    return Path(model.name).name if Path(model.name).expanduser().exists() else model.name


def dtype_of(resolved: ResolvedJob, environment: Environment) -> str:
    """Return the number format that model.dtype means where vLLM runs."""
    device = "cpu" if environment.on_cpu else "cuda"
    return dtype_for(vllm_model(resolved.config.model).dtype, resolved.model.files.settings, device)


def options_of(resolved: ResolvedJob) -> list[str]:
    """Return the options that decide what the server computes with a model; its address and key
    come from elsewhere."""
    config, files = resolved.config, resolved.model.files
    model = vllm_model(config.model)
    options = ["--dtype", dtype_of(resolved, environment_of(model))]
    for option, number in (
        ("--tensor-parallel-size", model.tensor_parallel),
        ("--pipeline-parallel-size", model.pipeline_parallel),
        ("--data-parallel-size", model.data_parallel),
    ):
        options += [option, str(number)] if number > 1 else []
    template = json.dumps(model.chat_template_kwargs) if model.chat_template_kwargs else None
    for option, value in (
        ("--quantization", model.word_for(config.quantization) if files.stored is None else None),
        ("--kv-cache-dtype", model.kv_cache_dtype),
        ("--gpu-memory-utilization", model.memory_share),
        ("--max-model-len", model.max_positions),
        ("--reasoning-parser", model.reasoning_parser),
        ("--default-chat-template-kwargs", template),
    ):
        options += [] if value is None else [option, str(value)]
    options += ["--trust-remote-code"] if model.trust_remote_code else []
    if files.adapter is not None:
        options += ["--enable-lora", "--max-lora-rank", str(_room_for_rank(files))]
        options += ["--lora-modules", f"{ADAPTER}={files.adapter}"]
    return options + model.args


def variables_of(resolved: ResolvedJob, key: str) -> dict[str, str]:
    """Return the variables of the server: the user's, and a few of the runner's."""
    model = vllm_model(resolved.config.model)
    variables = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": key, "HF_HUB_OFFLINE": "1"}
    variables.pop("PYTHONPATH", None)  # vLLM has packages of its own
    if batch_invariant():
        variables["VLLM_BATCH_INVARIANT"] = "1"
    if environment_of(model).on_cpu and model.memory_share is None:
        variables.setdefault(KV_SPACE, str(CPU_KV_GIB))
    return variables


def flags_shown(resolved: ResolvedJob) -> str:
    """Return these options as a record has them, without paths of this machine, and the user's
    variables for vLLM."""
    path = str(resolved.model.files.adapter)
    shown = [word.replace(path, Path(path).name) for word in options_of(resolved)]
    own = [f"{name}={value}" for name, value in sorted(os.environ.items())
           if name.startswith("VLLM_") and name not in OWN_VARIABLES]  # fmt: skip
    return " ".join([*own, *shown])


def _room_for_rank(files: ModelFiles) -> int:
    """Return the smallest rank that vLLM has and the adapter fits into."""
    assert files.adapter is not None
    settings = load_json(files.adapter / "adapter_config.json")
    ranks = [settings.get("r"), *(settings.get("rank_pattern") or {}).values()]
    rank = max((rank for rank in ranks if isinstance(rank, int)), default=RANKS[-1])
    return next((room for room in RANKS if room >= rank), RANKS[-1])
