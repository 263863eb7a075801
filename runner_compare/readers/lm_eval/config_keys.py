"""Translate lm-eval's `--model_args` and settings to the runner's config keys."""

from __future__ import annotations

from typing import Any

from runner_base import is_gguf_file_name
from runner_compare.readers import to_param_text
from runner_compare.readers.lm_eval.files import Results

OURS, OUR_MODEL = "runner", "embedded"  # the backend of runner-lm-eval, and its default model
FOLDER_KEY = "output_dir"  # names a run but does not make it another experiment, as with ours
MODEL_NAMES = ("pretrained", "model", "path", "engine")
NO_CHOICE = {"quantization.name": "none", "lora.name": "none"}
BATCHES = ("batch_size", "max_batch_size")  # affect the speed, not the answers
# bitsandbytes' keys in `hf`
EIGHT, FOUR, FOUR_KIND = "load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type"
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
TYPED = {"true": True, "false": False, "none": None}  # as a text, `False` would count as true


def convert_lm_eval_settings_to_params(results: Results, task: str) -> dict[str, str]:
    """Convert the settings of an lm-eval task to the runner's config keys.

    Keys that exist only in the lm-eval backend are below `backend`.
    """
    content, config = results.content, results.content["config"]
    backend = str(config.get("model"))
    params = {
        "backend.name": backend,
        **NO_CHOICE,
        **_build_model_params(parse_model_args(config.get("model_args")), backend, content),
    }
    kind = (results.find_task_entry_in_results("configs", task) or {}).get("output_type", GENERATES)
    if kind == GENERATES:
        generation = parse_model_args(config.get("gen_kwargs"))
        params |= {f"generation.{key}": to_param_text(value) for key, value in generation.items()}
    shots = results.find_task_entry_in_results("n-shot", task)
    if shots is not None:
        params["task.shots"] = to_param_text(shots)
    for key, name in (("system_instruction_sha", "task.system"), ("chat_template_sha", "task.template")):
        if content.get(key):
            params[name] = str(content[key])[:12]
    return params


def _build_model_params(arguments: dict[str, Any], backend: str, content: dict[str, Any]) -> dict[str, str]:
    """Return the params of model, quantization and adapter, plus the other settings of the backend."""
    model_name = next((arguments[key] for key in MODEL_NAMES if key in arguments), None)
    default_name = OUR_MODEL if backend == OURS else content.get("model_name")
    params = {"model.name": to_param_text(default_name if model_name is None else model_name)}
    if arguments.get(EIGHT):
        params["quantization.name"] = "int8"
    elif arguments.get(FOUR):
        # bitsandbytes' own default
        params["quantization.name"] = to_param_text(arguments.get(FOUR_KIND) or "fp4")
    elif backend == OURS and is_gguf_file_name(params["model.name"]):
        params["quantization.name"] = "gguf"  # it need not be given
    for key, value in arguments.items():
        if key not in (*MODEL_NAMES, *BATCHES, EIGHT, FOUR, FOUR_KIND) and value is not None:
            params[RENAMED.get(key, key if "." in key else f"backend.{key}")] = to_param_text(value)
    return params


def parse_model_args(arguments: Any) -> dict[str, Any]:
    """Parse the model arguments of a results file: an object, or text `key=value,key=value`."""
    if isinstance(arguments, str):
        pairs = (part.split("=", 1) for part in arguments.split(",") if "=" in part)
        return {key.strip(): TYPED.get(value.lower(), value) for key, value in pairs}
    return arguments if isinstance(arguments, dict) else {}
