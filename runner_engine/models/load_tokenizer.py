"""Loads the tokenizer among a model's files, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner_base import ConfigError, one_line
from runner_base.notes import Note
from runner_engine.checkpoints.gguf_file import read_header
from runner_engine.checkpoints.resolve import ModelFiles, for_transformers
from runner_engine.models import gguf_tokenizer
from runner_engine.models.compiler import import_compiler
from runner_engine.models.tokenizing import check_growth, panics
from runner_engine.models.vocabulary import check_tokenizer


def load_tokenizer(named: str, path: Path, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer among a model's files; `named` is the key and value that named the
    model."""
    import_compiler()
    from transformers import AutoTokenizer

    check_growth(path / "tokenizer.json")
    location, arguments = for_transformers(path, trust_remote_code)
    try:
        with panics(f"no usable tokenizer in {path}"):
            if path.is_file() and gguf_tokenizer.can_make(path):
                tokenizer = gguf_tokenizer.make(path, padding_side="left")
            else:
                tokenizer = AutoTokenizer.from_pretrained(location, **arguments, padding_side="left")
    except Exception as error:  # a library may raise anything over a user's files
        raise ConfigError(
            f"no usable tokenizer in {path}: {type(error).__name__}: {one_line(error)}{gguf_fix(path)}",
            key=named,
            code="unreadable",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so any token will do
    return tokenizer


def tokenizer_of(files: ModelFiles) -> tuple[Any, list[Note]]:
    """Return a model's tokenizer, and a note on its tokens that the model does not know."""
    model = files.model
    tokenizer = load_tokenizer(f"model.name={model.name}", files.path, model.trust_remote_code)
    rows = files.text_settings.get("vocab_size")
    return tokenizer, check_tokenizer(tokenizer, rows, model.name) if rows else []


def gguf_fix(path: Path) -> str:
    """Say what else to try if a library cannot read a .gguf file."""
    if not path.is_file():
        return ""
    architecture = read_header(path).architecture
    return f" (architecture {architecture}; if transformers cannot read it, use the original checkpoint)"
