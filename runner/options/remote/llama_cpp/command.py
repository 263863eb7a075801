"""Builds the command line and environment variables of a job's llama.cpp server."""

from __future__ import annotations

import json
import os
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.options.remote.llama_cpp.keys import KvType, LlamaCppConfig, as_llama_cpp_config
from runner.options.remote.llama_cpp.program import find_llama_cpp_program
from runner_base import ConfigError, machine
from runner_engine.checkpoints import model_files

MOST_POSITIONS = 8192  # of a sequence, unless the user says: memory is taken for all of them
OF_LLAMA_CPP = "LLAMA_ARG_"  # begins variables that stand for words of its command line


def served_model_name(model: LlamaCppConfig) -> str:
    """Return the model's name on the server, which is its file name without folders."""
    return Path(model.name).name


def get_max_sequence_tokens(resolved: ResolvedJob) -> int:
    """Return the maximum number of tokens in a prompt plus its answer."""
    model = as_llama_cpp_config(resolved.config.model)
    return model.context or min(resolved.model.position_limits.own or MOST_POSITIONS, MOST_POSITIONS)


def find_draft_model_file(resolved: ResolvedJob) -> Path | None:
    """Return the path of the draft model's file, or None without a draft model. Raises ConfigError if the
    file does not exist.
    """
    model = as_llama_cpp_config(resolved.config.model)
    if model.draft is None:
        return None
    path = Path(model.draft).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", key="model.draft", value=model.draft, code="not_found")
    return path


def build_server_options(resolved: ResolvedJob) -> list[str]:
    """Return the options of llama-server that can affect answers, which excludes host, port and API key."""
    model = as_llama_cpp_config(resolved.config.model)
    program, draft = find_llama_cpp_program(model), find_draft_model_file(resolved)
    options = ["--ctx-size", str(get_max_sequence_tokens(resolved) * model.parallel)]
    options += [
        "--parallel",
        str(model.parallel),
        "--threads",
        str(model.threads or machine.count_available_cpu_cores()),
    ]
    for option, kind in (("--cache-type-k", model.kv_keys), ("--cache-type-v", model.kv_values)):
        options += [] if kind is KvType.f16 else [option, kind.value]
    for option, value in (
        ("--flash-attn", None if model.flash_attention == "auto" else model.flash_attention.value),
        (program.find_supported_flag("--gpu-layers", "--n-gpu-layers"), model.gpu_layers),
        ("--batch-size", model.batch),
        ("--ubatch-size", model.ubatch),
        ("--n-cpu-moe", model.n_cpu_moe),
        ("--model-draft", draft),
        (program.find_supported_flag("--spec-draft-n-max", "--draft-max"), model.draft_tokens),
    ):
        options += [] if value is None else [option, str(value)]
    if draft is not None and "--spec-type" in program.words:
        options += ["--spec-type", "draft-simple"]
    for rule in model.override_tensors:
        options += ["--override-tensor", rule]
    if model.chat_template_kwargs:
        options += ["--chat-template-kwargs", json.dumps(model.chat_template_kwargs)]
    return options + model.flags


def build_server_environment(api_key: str) -> dict[str, str]:
    """Return the user's environment plus the API key, without LLAMA_ARG_* variables, which would override
    the job's settings.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(OF_LLAMA_CPP)}
    own.pop("PYTHONPATH", None)  # xllamacpp's environment has packages of its own
    return own | {"LLAMA_API_KEY": api_key}


def format_server_options(resolved: ResolvedJob) -> str:
    """Format the server's options as text, without the folder of the draft model."""
    draft, words = find_draft_model_file(resolved), build_server_options(resolved)
    shown = words if draft is None else [draft.name if word == str(draft) else word for word in words]
    return " ".join(shown)


def check_flags_supported(model: LlamaCppConfig) -> None:
    """Raise ConfigError for a flag that the help text of the installed llama.cpp program does not list."""
    program = find_llama_cpp_program(model)
    for word in model.flags if program.words else []:
        name = word.partition("=")[0]
        if name.startswith("-") and not name[1:2].isdigit() and name not in program.words:
            raise ConfigError(
                (
                    f"{program.label} does not support this option. Supported options: "
                    f"{', '.join(sorted((known for known in program.words if known.startswith('--'))))}"
                ),
                key="model.flags",
                value=word,
                code="unknown_choice",
            )


def hash_draft_model_file(resolved: ResolvedJob, cache: Path) -> dict[str, str]:
    draft = find_draft_model_file(resolved)
    return {} if draft is None else {"draft": model_files.hash_model_files(draft, cache)}
