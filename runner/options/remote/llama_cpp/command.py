"""The command line of llama.cpp's server for a job, and the variables that it gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

from runner.config.resolved import ResolvedJob
from runner.options.remote.llama_cpp.keys import KvType, LlamaCppConfig, llama_cpp_model
from runner.options.remote.llama_cpp.program import program_of
from runner_base import ConfigError, machine
from runner_engine.checkpoints import model_files

MOST_POSITIONS = 8192  # of a sequence, unless the user says: memory is taken for all of them
OF_LLAMA_CPP = "LLAMA_ARG_"  # begins variables that stand for words of its command line


def name_of(model: LlamaCppConfig) -> str:
    """Return the name under which the server has the model: without the folders of its path."""
    return Path(model.name).name


def positions_of(resolved: ResolvedJob) -> int:
    """Return the most tokens of a prompt and its answer."""
    model = llama_cpp_model(resolved.config.model)
    return model.context or min(resolved.model.positions.own or MOST_POSITIONS, MOST_POSITIONS)


def draft_of(resolved: ResolvedJob) -> Path | None:
    """Return the draft's file; ConfigError if there is none."""
    model = llama_cpp_model(resolved.config.model)
    if model.draft is None:
        return None
    path = Path(model.draft).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", key="model.draft", value=model.draft, code="not_found")
    return path


def options_of(resolved: ResolvedJob) -> list[str]:
    """Return the options that decide what the server computes with a model; its address and key
    come from elsewhere."""
    model = llama_cpp_model(resolved.config.model)
    program, draft = program_of(model), draft_of(resolved)
    options = ["--ctx-size", str(positions_of(resolved) * model.parallel)]
    options += ["--parallel", str(model.parallel), "--threads", str(model.threads or machine.cores())]
    for option, kind in (("--cache-type-k", model.kv_keys), ("--cache-type-v", model.kv_values)):
        options += [] if kind is KvType.f16 else [option, kind.value]
    for option, value in (
        ("--flash-attn", None if model.flash_attention == "auto" else model.flash_attention.value),
        (program.first_known("--gpu-layers", "--n-gpu-layers"), model.gpu_layers),
        ("--batch-size", model.batch),
        ("--ubatch-size", model.ubatch),
        ("--n-cpu-moe", model.cpu_moe),
        ("--model-draft", draft),
        (program.first_known("--spec-draft-n-max", "--draft-max"), model.draft_tokens),
    ):
        options += [] if value is None else [option, str(value)]
    if draft is not None and "--spec-type" in program.words:
        options += ["--spec-type", "draft-simple"]
    for rule in model.override_tensors:
        options += ["--override-tensor", rule]
    if model.chat_template_kwargs:
        options += ["--chat-template-kwargs", json.dumps(model.chat_template_kwargs)]
    return options + model.flags


def variables_of(key: str) -> dict[str, str]:
    """Return the variables of the server: the user's, without those that would change what it
    computes."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(OF_LLAMA_CPP)}
    own.pop("PYTHONPATH", None)  # xllamacpp's environment has packages of its own
    return own | {"LLAMA_API_KEY": key}


def flags_shown(resolved: ResolvedJob) -> str:
    """Return these options as a record has them, without paths of this machine."""
    draft, words = draft_of(resolved), options_of(resolved)
    shown = words if draft is None else [draft.name if word == str(draft) else word for word in words]
    return " ".join(shown)


def check_words(model: LlamaCppConfig) -> None:
    """Refuse a word that the program does not know, as far as it tells which it knows."""
    program = program_of(model)
    for word in model.flags if program.words else []:
        name = word.partition("=")[0]
        if name.startswith("-") and not name[1:2].isdigit() and name not in program.words:
            raise ConfigError(
                f"{program.label} has no such word; it has "
                f"{', '.join(sorted(known for known in program.words if known.startswith('--')))}",
                key="model.flags",
                value=word,
                code="unknown_choice",
            )


def draft_sha256(resolved: ResolvedJob, cache: Path) -> dict[str, str]:
    """Return the hash of the draft's file, if there is one."""
    draft = draft_of(resolved)
    return {} if draft is None else {"draft": model_files.files_sha256(draft, cache)}
