"""Whether a checkpoint has a chat template, before its weights are read; imports no
transformers."""

from __future__ import annotations

from pathlib import Path

from runner_base import ConfigError, RunnerError, load_json
from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.resolve import ModelFiles

MAY_HOLD_ONE = (
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "processor_config.json",
    "tekken.json",  # a format of Mistral's that brings its own
)
ALTERNATIVES = (
    "use task.prompt=text (gsm8k), task.format=raw (generate, sweep) or /v1/completions (serve)"
)


def missing(model_name: str) -> str:
    """Return the message of a model that cannot be asked as a chat."""
    return f"model.name={model_name} has no chat template, so it cannot be asked as a chat: {ALTERNATIVES}"


def check(files: ModelFiles) -> None:
    """Refuse questions in a chat template if the checkpoint surely has none; the tokenizer tells
    the others."""
    if not files.model.random_weights and surely_lacks_one(files.path):
        raise ConfigError(missing(files.model.name))


def surely_lacks_one(path: Path) -> bool:
    """Return whether neither a .gguf file's metadata nor a folder's files contain a chat
    template."""
    if path.is_file():
        return not any(
            key.startswith("tokenizer.chat_template")
            for key in gguf_file.read_header(path).metadata
        )
    if any((path / name).exists() for name in MAY_HOLD_ONE):
        return False
    try:
        settings = load_json(path / "tokenizer_config.json")
    except RunnerError:
        return False  # the tokenizer's own loading says what is wrong
    return not settings.get("chat_template") and "auto_map" not in settings
