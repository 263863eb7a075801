"""Loads a model's tokenizer without the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from runner_base import ConfigError, to_one_line
from runner_base.notes import Note
from runner_engine.checkpoints.gguf_file import read_gguf_header
from runner_engine.checkpoints.resolved_model import ModelFiles, build_from_pretrained_arguments
from runner_engine.models import gguf_tokenizer
from runner_engine.models.compiler_import import import_torch_compiler
from runner_engine.models.tokenization import catch_tokenizer_panics, reject_expanding_tokenizer_rules
from runner_engine.models.vocabulary import check_tokenizer_vocabulary


def load_tokenizer(config_entry: str, path: Path, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer from a model's files. Error messages start with `config_entry`, a KEY=VALUE text."""
    if "transformers" not in sys.modules:  # else whoever imported it has decided about the compiler
        import_torch_compiler()
    from transformers import AutoTokenizer

    reject_expanding_tokenizer_rules(path / "tokenizer.json")
    location, arguments = build_from_pretrained_arguments(path, trust_remote_code)
    try:
        with catch_tokenizer_panics(f"no usable tokenizer in {path}"):
            if path.is_file() and gguf_tokenizer.can_build_tokenizer(path):
                tokenizer = gguf_tokenizer.build_tokenizer(path, padding_side="left")
            else:
                tokenizer = AutoTokenizer.from_pretrained(location, **arguments, padding_side="left")
    except Exception as error:  # a library may raise anything over a user's files
        raise ConfigError(
            f"the tokenizer in {path} cannot be loaded: {type(error).__name__}: {to_one_line(error)}"
            f"{build_gguf_error_hint(path)}",
            key=config_entry,
            code="unreadable",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so any token will do
    return tokenizer


def load_and_check_tokenizer(files: ModelFiles) -> tuple[Any, list[Note]]:
    """Load a model's tokenizer. Also returns a note if the model lacks embeddings for some of its tokens."""
    model = files.model
    tokenizer = load_tokenizer(f"model.name={model.name}", files.path, model.trust_remote_code)
    rows = files.text_settings.get("vocab_size")
    return tokenizer, check_tokenizer_vocabulary(tokenizer, rows, model.name) if rows else []


def build_gguf_error_hint(path: Path) -> str:
    """Return a hint for error messages if the file is a .gguf file, otherwise an empty string."""
    if not path.is_file():
        return ""
    architecture = read_gguf_header(path).architecture
    return f" (architecture {architecture}; if transformers cannot read it, use the original checkpoint)"
