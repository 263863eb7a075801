"""Starts a server with the command line of llama-server, from a Python environment with xllamacpp.

Usage: `python xllamacpp_main.py --model FILE --port PORT …`. LLAMA_API_KEY is the API key.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # the tensors that --cpu-moe keeps on the CPU
FlagSetter = Callable[[Any, Any, str], None]  # parameters, the library and a value


def make_attribute_setter(attribute_path: str, convert: Callable[[str], Any] = str) -> FlagSetter:
    """Return a setter that converts a flag's value and stores it in xllamacpp's parameters.

    attribute_path: dotted path of the attribute.
    """
    *owners, name = attribute_path.split(".")

    def set_value(parameters: Any, _library: Any, value: str) -> None:
        for owner in owners:
            parameters = getattr(parameters, owner)
        setattr(parameters, name, convert(value))

    return set_value


def make_enum_setter(
    attribute_path: str, enum_name: str, member_prefix: str, spellings: Mapping[str, str] | None = None
) -> FlagSetter:
    def set_value(parameters: Any, library: Any, value: str) -> None:
        name = member_prefix + (spellings or {}).get(value, value).upper()
        make_attribute_setter(attribute_path, lambda _: getattr(getattr(library, enum_name), name))(
            parameters, library, value
        )

    return set_value


def combine_flag_setters(*setters: FlagSetter) -> FlagSetter:
    def set_value(parameters: Any, library: Any, value: str) -> None:
        for one_put in setters:
            one_put(parameters, library, value)

    return set_value


def make_constant_setter(attribute_path: str, value: Any) -> FlagSetter:
    """Return a setter for a flag without value, which sets one of xllamacpp's parameters to a constant."""
    return make_attribute_setter(attribute_path, lambda _: value)


def add_tensor_override(parameters: Any, _library: Any, placement_rules: str) -> None:
    before = parameters.tensor_buft_overrides
    parameters.tensor_buft_overrides = f"{before},{placement_rules}" if before else placement_rules


def place_experts_on_cpu(parameters: Any, library: Any, num_layers: str) -> None:
    layers = range(int(num_layers))
    add_tensor_override(parameters, library, ",".join(rf"blk\.{layer}{EXPERTS}=CPU" for layer in layers))


def set_speculative_method(parameters: Any, library: Any, method_name: str) -> None:
    """Set the method of speculative decoding."""
    name = "COMMON_SPECULATIVE_TYPE_" + method_name.replace("-", "_").upper()
    parameters.speculative.types = [getattr(library.common_speculative_type, name)]


def parse_gpu_layers(flag_value: str) -> int:
    """Convert a flag's number of GPU layers to an integer. xllamacpp uses -1 for auto and -2 for all."""
    return {"auto": -1, "all": -2}.get(flag_value) or int(flag_value)


FLASH = {"on": "enabled", "off": "disabled"}
ROPE = "LLAMA_ROPE_SCALING_TYPE_"
WORDS: dict[str, tuple[bool, FlagSetter]] = {  # whether a value follows, and what is done with it
    "--model": (True, make_attribute_setter("model.path")),
    "--alias": (True, make_attribute_setter("model_alias", lambda value: {value})),
    "--host": (True, make_attribute_setter("hostnames", lambda value: [value])),
    "--port": (True, make_attribute_setter("port", int)),
    "--gpu-layers": (True, make_attribute_setter("n_gpu_layers", parse_gpu_layers)),
    "--ctx-size": (True, make_attribute_setter("n_ctx", int)),
    "--parallel": (True, make_attribute_setter("n_parallel", int)),
    "--kv-unified": (False, make_constant_setter("kv_unified", True)),
    "--cache-type-k": (True, make_enum_setter("cache_type_k", "ggml_type", "GGML_TYPE_")),
    "--cache-type-v": (True, make_enum_setter("cache_type_v", "ggml_type", "GGML_TYPE_")),
    "--flash-attn": (
        True,
        make_enum_setter("flash_attn_type", "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_", FLASH),
    ),
    "--batch-size": (True, make_attribute_setter("n_batch", int)),
    "--ubatch-size": (True, make_attribute_setter("n_ubatch", int)),
    "--threads": (
        True,
        combine_flag_setters(
            make_attribute_setter("cpuparams.n_threads", int),
            make_attribute_setter("cpuparams_batch.n_threads", int),
        ),
    ),
    "--n-cpu-moe": (True, place_experts_on_cpu),
    "--model-draft": (True, make_attribute_setter("speculative.draft.mparams.path")),
    "--spec-type": (True, set_speculative_method),
    "--spec-draft-n-max": (True, make_attribute_setter("speculative.draft.n_max", int)),
    "--override-tensor": (True, add_tensor_override),
    "--chat-template-kwargs": (
        True,
        # the library keeps each variable as the text of its JSON
        make_attribute_setter(
            "default_template_kwargs",
            lambda value: {name: json.dumps(each) for name, each in json.loads(value).items()},
        ),
    ),
    "--chat-template": (True, make_attribute_setter("chat_template")),
    "--no-jinja": (False, make_constant_setter("use_jinja", False)),
    "--no-cache-prompt": (False, make_constant_setter("cache_prompt", False)),
    "--cache-ram": (True, make_attribute_setter("cache_ram_mib", int)),
    "--no-warmup": (False, make_constant_setter("warmup", False)),
    "--verbosity": (True, make_attribute_setter("verbosity", int)),
    "--swa-full": (False, make_constant_setter("swa_full", True)),
    "--check-tensors": (False, make_constant_setter("check_tensors", True)),
    "--no-kv-offload": (False, make_constant_setter("no_kv_offload", True)),
    "--main-gpu": (True, make_attribute_setter("main_gpu", int)),
    "--rope-scaling": (True, make_enum_setter("rope_scaling_type", "llama_rope_scaling_type", ROPE)),
    "--rope-scale": (True, make_attribute_setter("rope_freq_scale", lambda value: 1 / float(value))),
    "--rope-freq-base": (True, make_attribute_setter("rope_freq_base", float)),
    "--rope-freq-scale": (True, make_attribute_setter("rope_freq_scale", float)),
    "--yarn-orig-ctx": (True, make_attribute_setter("yarn_orig_ctx", int)),
    "--yarn-ext-factor": (True, make_attribute_setter("yarn_ext_factor", float)),
    "--yarn-attn-factor": (True, make_attribute_setter("yarn_attn_factor", float)),
    "--yarn-beta-slow": (True, make_attribute_setter("yarn_beta_slow", float)),
    "--yarn-beta-fast": (True, make_attribute_setter("yarn_beta_fast", float)),
}


def main() -> None:
    """Parse a command line of llama-server, load the model file, and serve until the process is killed."""
    import xllamacpp  # type: ignore[import-not-found]

    parameters = xllamacpp.CommonParams()
    parameters.api_keys = [os.environ["LLAMA_API_KEY"]]
    words = iter(sys.argv[1:])
    for word in words:
        name, has_own, value = word.partition("=")
        if name not in WORDS:
            sys.exit(f"error: invalid argument: {word}. Supported arguments: {', '.join(WORDS)}")
        takes_value, put = WORDS[name]
        if takes_value and not has_own:
            value = next(words, "")
        try:
            put(parameters, xllamacpp, value)
        except (ValueError, AttributeError, TypeError) as error:
            sys.exit(f"error: invalid argument: {name} {value}: {error}")
    server = xllamacpp.Server(parameters)
    print("serving at", server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
