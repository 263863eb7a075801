"""Builds the command line and environment variables of a job's vLLM server."""

from __future__ import annotations

import json
import os
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.options.remote.vllm.environment import VllmEnvironment, find_vllm_environment
from runner.options.remote.vllm.gpus import is_batch_invariance_enabled
from runner.options.remote.vllm.keys import VllmConfig, as_vllm_config
from runner_base import load_json_object
from runner_base.dtypes import resolve_dtype
from runner_engine import ModelFiles

ADAPTER = "adapter"  # the name under which the server has it
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for
CPU_KV_GIB = 4  # for keys and values on a CPU, unless the user says
KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
OWN_VARIABLES = {"VLLM_API_KEY", "VLLM_NO_USAGE_STATS", "VLLM_BATCH_INVARIANT", KV_SPACE}


def served_model_name(model: VllmConfig) -> str:
    return Path(model.name).name if Path(model.name).expanduser().exists() else model.name


def resolve_job_dtype(resolved: ResolvedJob, environment: VllmEnvironment) -> str:
    device = "cpu" if environment.on_cpu else "cuda"
    return resolve_dtype(as_vllm_config(resolved.config.model).dtype, resolved.model.files.settings, device)


def build_server_options(resolved: ResolvedJob) -> list[str]:
    """Return the options of vLLM's server that can affect answers, which excludes host, port and API key."""
    config, files = resolved.config, resolved.model.files
    model = as_vllm_config(config.model)
    options = ["--dtype", resolve_job_dtype(resolved, find_vllm_environment(model))]
    for option, number in (
        ("--tensor-parallel-size", model.tensor_parallel),
        ("--pipeline-parallel-size", model.pipeline_parallel),
        ("--data-parallel-size", model.data_parallel),
    ):
        options += [option, str(number)] if number > 1 else []
    template = json.dumps(model.chat_template_kwargs) if model.chat_template_kwargs else None
    for option, value in (
        (
            "--quantization",
            model.vllm_quantization(config.quantization) if files.stored_format is None else None,
        ),
        ("--kv-cache-dtype", model.kv_cache_dtype),
        ("--gpu-memory-utilization", model.memory_share),
        ("--max-model-len", model.max_positions),
        ("--reasoning-parser", model.reasoning_parser),
        ("--default-chat-template-kwargs", template),
    ):
        options += [] if value is None else [option, str(value)]
    options += ["--trust-remote-code"] if model.trust_remote_code else []
    if files.adapter is not None:
        options += ["--enable-lora", "--max-lora-rank", str(_choose_max_lora_rank(files))]
        options += ["--lora-modules", f"{ADAPTER}={files.adapter}"]
    return options + model.args


def build_server_environment(resolved: ResolvedJob, api_key: str) -> dict[str, str]:
    """Return the vLLM server's environment variables: those of the user plus the runner's settings."""
    model = as_vllm_config(resolved.config.model)
    variables = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": api_key, "HF_HUB_OFFLINE": "1"}
    variables.pop("PYTHONPATH", None)  # vLLM has packages of its own
    if is_batch_invariance_enabled():
        variables["VLLM_BATCH_INVARIANT"] = "1"
    if find_vllm_environment(model).on_cpu and model.memory_share is None:
        variables.setdefault(KV_SPACE, str(CPU_KV_GIB))
    return variables


def format_server_options(resolved: ResolvedJob) -> str:
    """Format the server's options and the user's VLLM_* variables for the run record, without local paths."""
    path = str(resolved.model.files.adapter)
    shown = [word.replace(path, Path(path).name) for word in build_server_options(resolved)]
    own = [f"{name}={value}" for name, value in sorted(os.environ.items())
           if name.startswith("VLLM_") and name not in OWN_VARIABLES]  # fmt: skip
    return " ".join([*own, *shown])


def _choose_max_lora_rank(files: ModelFiles) -> int:
    assert files.adapter is not None
    settings = load_json_object(files.adapter / "adapter_config.json")
    ranks = [settings.get("r"), *(settings.get("rank_pattern") or {}).values()]
    rank = max((rank for rank in ranks if isinstance(rank, int)), default=RANKS[-1])
    return next((room for room in RANKS if room >= rank), RANKS[-1])
