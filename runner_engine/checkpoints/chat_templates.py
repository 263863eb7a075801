"""Checks a checkpoint's chat template before the weights are read, without transformers."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from runner_base import ConfigError, RunnerError, load_json_object, read_text
from runner_engine.checkpoints import gguf_file
from runner_engine.checkpoints.resolved_model import ModelFiles

MAY_HOLD_ONE = (
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "processor_config.json",
    "tekken.json",  # a format of Mistral's that brings its own
)
ALTERNATIVES = "use task.prompt=text (gsm8k), task.format=raw (generate, sweep) or /v1/completions (serve)"


def format_missing_template_error(model_name: str) -> str:
    return f"model.name={model_name} has no chat template, so it cannot answer chat requests: {ALTERNATIVES}"


def check_has_chat_template(files: ModelFiles) -> None:
    """Raise ConfigError if a checkpoint's files show that it has no chat template.

    Unclear cases are decided when the tokenizer is loaded.
    """
    if not files.model.random_weights and lacks_chat_template(files.path):
        raise ConfigError(format_missing_template_error(files.model.name), code="unsupported")


def lacks_chat_template(path: Path) -> bool:
    if path.is_file():
        return not any(
            key.startswith("tokenizer.chat_template") for key in gguf_file.read_gguf_header(path).metadata
        )
    if any((path / name).exists() for name in MAY_HOLD_ONE):
        return False
    try:
        settings = load_json_object(path / "tokenizer_config.json")
    except RunnerError:
        return False  # the tokenizer's own loading says what is wrong
    return not settings.get("chat_template") and "auto_map" not in settings


def read_chat_templates(path: Path) -> str | None:
    """Return the source of all chat templates in a checkpoint. None if the files contain no
    template.
    """
    if path.is_file():
        metadata = gguf_file.read_gguf_header(path).metadata
        texts = [str(value) for key, value in metadata.items() if key.startswith("tokenizer.chat_template")]
        return "\n".join(texts) or None
    files = [path / "chat_template.jinja", *sorted((path / "additional_chat_templates").glob("*.jinja"))]
    found = [read_text(file, "the chat template") for file in files if file.is_file()]
    for name in ("chat_template.json", "tokenizer_config.json"):
        with suppress(RunnerError):
            own = load_json_object(path / name).get("chat_template")
            named = own if isinstance(own, list) else [{"template": own}]
            found += [str(one["template"]) for one in named if isinstance(one, dict) and one.get("template")]
    return "\n".join(found) or None


def template_supports_tools(template: str) -> bool:
    return re.search(r"\btools\b", template) is not None


def check_template_supports_tools(template: str, model_name: str) -> None:
    if not template_supports_tools(template):
        raise ConfigError(
            f"the chat template of model.name={model_name} does not support tools. "
            "Use task.tool_placement=system to put the tools into the system message, as JSON",
            code="unsupported",
        )
