"""What lm-eval's `--model_args` and settings are called among our config keys: model, quantization, adapter, shots."""

from __future__ import annotations

import json
from typing import Any

from runner.compare.lm_eval_files import Results

OURS, OUR_MODEL = "runner", "embedded"  # the backend of runner-lm-eval, and what it takes where no model is named
FOLDER_KEY = "output_dir"  # names a run and makes no other experiment of it, as with ours
MODEL_NAMES = ("pretrained", "model", "path", "engine")
NO_CHOICE = {"quantization.name": "none", "lora.name": "none"}
BATCHES = ("batch_size", "max_batch_size")  # say how quickly, and not what
EIGHT, FOUR, FOUR_KIND = "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type"  # bitsandbytes' words in `hf`
RENAMED = {
    "dtype": "model.dtype",
    "revision": "model.revision",
    "quantization": "quantization.name",
    "bnb_4bit_use_double_quant": "quantization.double_quant",
    "bnb_4bit_compute_dtype": "quantization.compute_dtype",
    "lora": "lora.name",
    "peft": "lora.name",
    "rope": "rope.name",
    "generation": "generation.name",
}
GENERATES = "generate_until"


def params_of(results: Results, task: str) -> dict[str, str]:
    """Return what a task was run with, by config keys; a backend's own keys stand below `backend`."""
    content, config = results.content, results.content["config"]
    backend = str(config.get("model"))
    params = {
        "backend.name": backend,
        **NO_CHOICE,
        **_of_model(arguments_of(config.get("model_args")), backend, content),
    }
    kind = (results.of("configs", task) or {}).get("output_type", GENERATES)
    if kind == GENERATES:
        generation = arguments_of(config.get("gen_kwargs"))
        params |= {f"generation.{key}": text_of(value) for key, value in generation.items()}
    shots = results.of("n-shot", task)
    if shots is not None:
        params["task.shots"] = text_of(shots)
    for key, name in (("system_instruction_sha", "task.system"), ("chat_template_sha", "task.template")):
        if content.get(key):
            params[name] = str(content[key])[:12]
    return params


def _of_model(arguments: dict[str, Any], backend: str, content: dict[str, Any]) -> dict[str, str]:
    """Return model, quantization and adapter, and what else the backend was told."""
    named = next((arguments[key] for key in MODEL_NAMES if key in arguments), None)
    usual = OUR_MODEL if backend == OURS else content.get("model_name")
    params = {"model.name": text_of(usual if named is None else named)}
    if arguments.get(EIGHT):
        params["quantization.name"] = "int8"
    elif arguments.get(FOUR):
        params["quantization.name"] = text_of(arguments.get(FOUR_KIND) or "fp4")  # bitsandbytes' own default
    for key, value in arguments.items():
        if key not in (*MODEL_NAMES, *BATCHES, EIGHT, FOUR, FOUR_KIND) and value is not None:
            params[RENAMED.get(key, key if "." in key else f"backend.{key}")] = text_of(value)
    return params


def arguments_of(given: Any) -> dict[str, Any]:
    """Return arguments as a results file has them: an object, or `key=value,key=value` as they were typed."""
    if isinstance(given, str):
        pairs = (part.split("=", 1) for part in given.split(",") if "=" in part)
        return {key.strip(): _typed(value) for key, value in pairs}
    return given if isinstance(given, dict) else {}


def _typed(text: str) -> Any:
    """Read `False` as what it says: as a text it would count as given."""
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def text_of(value: Any) -> str:
    """Return a value as MLflow's params have it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
