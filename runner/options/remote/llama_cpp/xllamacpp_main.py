"""Serves as llama-server does, with the words of its command line, in a Python that has only
xllamacpp: `python xllamacpp_main.py --model FILE --port PORT …`; the key comes in LLAMA_API_KEY."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # the tensors that --cpu-moe keeps on the CPU
Put = Callable[[Any, Any, str], None]  # parameters, the library and a value


def at(path: str, kind: Callable[[str], Any] = str) -> Put:
    """Return what puts a value at attributes of the parameters."""
    *owners, name = path.split(".")

    def put(parameters: Any, _library: Any, value: str) -> None:
        for owner in owners:
            parameters = getattr(parameters, owner)
        setattr(parameters, name, kind(value))

    return put


def of(path: str, kind: str, prefix: str, spellings: Mapping[str, str] | None = None) -> Put:
    """Return what puts a member of one of the library's enumerations at attributes."""

    def put(parameters: Any, library: Any, value: str) -> None:
        name = prefix + (spellings or {}).get(value, value).upper()
        at(path, lambda _: getattr(getattr(library, kind), name))(parameters, library, value)

    return put


def both(*puts: Put) -> Put:
    """Return what puts a value at several places."""

    def put(parameters: Any, library: Any, value: str) -> None:
        for one_put in puts:
            one_put(parameters, library, value)

    return put


def fixed(path: str, value: Any) -> Put:
    """Return what puts a fixed value at attributes, for a word that takes none."""
    return at(path, lambda _: value)


def override(parameters: Any, _library: Any, value: str) -> None:
    """Add rules of where tensors lie."""
    before = parameters.tensor_buft_overrides
    parameters.tensor_buft_overrides = f"{before},{value}" if before else value


def experts_of(parameters: Any, library: Any, value: str) -> None:
    """Keep the experts of so many first layers on the CPU."""
    layers = range(int(value))
    override(parameters, library, ",".join(rf"blk\.{layer}{EXPERTS}=CPU" for layer in layers))


def draft_types(parameters: Any, library: Any, value: str) -> None:
    """Say how drafts guess."""
    name = "COMMON_SPECULATIVE_TYPE_" + value.replace("-", "_").upper()
    parameters.speculative.types = [getattr(library.common_speculative_type, name)]


def gpu_layers(value: str) -> int:
    """Return a number of layers."""
    return {"auto": -1, "all": -2}.get(value) or int(value)


FLASH = {"on": "enabled", "off": "disabled"}
ROPE = "LLAMA_ROPE_SCALING_TYPE_"
WORDS: dict[str, tuple[bool, Put]] = {  # whether a value follows, and what is done with it
    "--model": (True, at("model.path")),
    "--alias": (True, at("model_alias", lambda value: {value})),
    "--host": (True, at("hostnames", lambda value: [value])),
    "--port": (True, at("port", int)),
    "--gpu-layers": (True, at("n_gpu_layers", gpu_layers)),
    "--ctx-size": (True, at("n_ctx", int)),
    "--parallel": (True, at("n_parallel", int)),
    "--kv-unified": (False, fixed("kv_unified", True)),
    "--cache-type-k": (True, of("cache_type_k", "ggml_type", "GGML_TYPE_")),
    "--cache-type-v": (True, of("cache_type_v", "ggml_type", "GGML_TYPE_")),
    "--flash-attn": (True, of("flash_attn_type", "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_", FLASH)),
    "--batch-size": (True, at("n_batch", int)),
    "--ubatch-size": (True, at("n_ubatch", int)),
    "--threads": (True, both(at("cpuparams.n_threads", int), at("cpuparams_batch.n_threads", int))),
    "--n-cpu-moe": (True, experts_of),
    "--model-draft": (True, at("speculative.draft.mparams.path")),
    "--spec-type": (True, draft_types),
    "--spec-draft-n-max": (True, at("speculative.draft.n_max", int)),
    "--override-tensor": (True, override),
    "--chat-template-kwargs": (
        True,
        # the library keeps each variable as the text of its JSON
        at(
            "default_template_kwargs",
            lambda value: {name: json.dumps(each) for name, each in json.loads(value).items()},
        ),
    ),
    "--chat-template": (True, at("chat_template")),
    "--no-jinja": (False, fixed("use_jinja", False)),
    "--no-cache-prompt": (False, fixed("cache_prompt", False)),
    "--cache-ram": (True, at("cache_ram_mib", int)),
    "--no-warmup": (False, fixed("warmup", False)),
    "--verbosity": (True, at("verbosity", int)),
    "--swa-full": (False, fixed("swa_full", True)),
    "--check-tensors": (False, fixed("check_tensors", True)),
    "--no-kv-offload": (False, fixed("no_kv_offload", True)),
    "--main-gpu": (True, at("main_gpu", int)),
    "--rope-scaling": (True, of("rope_scaling_type", "llama_rope_scaling_type", ROPE)),
    "--rope-scale": (True, at("rope_freq_scale", lambda value: 1 / float(value))),
    "--rope-freq-base": (True, at("rope_freq_base", float)),
    "--rope-freq-scale": (True, at("rope_freq_scale", float)),
    "--yarn-orig-ctx": (True, at("yarn_orig_ctx", int)),
    "--yarn-ext-factor": (True, at("yarn_ext_factor", float)),
    "--yarn-attn-factor": (True, at("yarn_attn_factor", float)),
    "--yarn-beta-slow": (True, at("yarn_beta_slow", float)),
    "--yarn-beta-fast": (True, at("yarn_beta_fast", float)),
}


def main() -> None:
    """Read the words, load the file and serve until the process is ended."""
    import xllamacpp  # type: ignore[import-not-found]

    parameters = xllamacpp.CommonParams()
    parameters.api_keys = [os.environ["LLAMA_API_KEY"]]
    words = iter(sys.argv[1:])
    for word in words:
        name, has_own, value = word.partition("=")
        if name not in WORDS:
            sys.exit(f"error: invalid argument: {word} (xllamacpp knows {', '.join(WORDS)})")
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
