"""Creates checkpoints with random weights and the shapes of a preset model, for memory and speed tests.

Such a checkpoint (model.random_weights=true) is an ordinary folder (config.json, safetensors,
the embedded model's tokenizer), so everything that works on a model works on it: quantizing,
splitting, measuring. Its answers mean nothing. It is created once, without torch, and stored in
a cache folder; a plan does not need the files.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner_base import ConfigError, Progress, format_unknown_choice_message, lock_file
from runner_base.temp_folders import create_temporary_folder, remove_abandoned_folders
from runner_engine.checkpoints.file_io import (
    build_safetensors_header,
    check_user_disk_space,
    create_folder,
    write_file_atomically,
    write_json_atomically,
)
from runner_engine.checkpoints.weight_files import INDEX, TensorLocation
from runner_engine.embedded import MODEL_DIR
from runner_engine.settings.model import LocalModelConfig

SHAPES_DIR = Path(__file__).parent / "shapes"
RECIPE = "noise 1"  # raise it when the same shape would get other numbers
POOL_NUMBERS = 1_048_583  # a prime, so that no row of a matrix repeats the one above it
STANDARD_DEVIATION = 0.02
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # whose tensors are known here
SHARD_BYTES = 4 * 2**30
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
ONE_BF16 = b"\x80\x3f"


def read_preset_config(model: LocalModelConfig) -> dict[str, Any]:
    """Return the config.json of the preset model. Raises ConfigError for models without a preset."""
    names = [file.stem for file in SHAPES_DIR.glob("*.json")]
    if model.shape not in names:
        what = (
            f"model.name={model.name} has none"
            if model.shape is None
            else format_unknown_choice_message("shape", model.shape, names)
        )
        presets = "|".join(sorted(names))
        raise ConfigError(
            f"model.random_weights=true needs a preset model: {what}. Choose model={presets}",
            code="missing" if model.shape is None else "unknown_choice",
        )
    shape: dict[str, Any] = json.loads((SHAPES_DIR / f"{model.shape}.json").read_text())
    return shape | read_special_token_ids()


def read_special_token_ids() -> dict[str, Any]:
    """Return the tokenizer's special token ids under the keys that config.json uses."""
    tokens = json.loads((MODEL_DIR / "config.json").read_text())
    return {key: tokens[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}


def hash_preset(model: LocalModelConfig) -> str:
    """Return a hash of all settings that determine the content of a random checkpoint."""
    return hashlib.sha256(
        f"{RECIPE} {json.dumps(read_preset_config(model), sort_keys=True)}".encode()
    ).hexdigest()


def list_random_checkpoint_tensors(config: dict[str, Any], folder: Path = Path()) -> list[TensorLocation]:
    """List the tensors of a Llama, Qwen2, Qwen3 or Mistral model, in the order of the file."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    sizes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (vocab, hidden))]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        outputs = {"q_proj": heads * head_dim, "k_proj": kv_heads * head_dim, "v_proj": kv_heads * head_dim}
        for name, size in outputs.items():
            sizes.append((f"{block}self_attn.{name}.weight", (size, hidden)))
            if config["model_type"] == "qwen2":
                sizes.append((f"{block}self_attn.{name}.bias", (size,)))
        sizes.append((f"{block}self_attn.o_proj.weight", (hidden, heads * head_dim)))
        if config["model_type"] == "qwen3":
            sizes += [(f"{block}self_attn.{name}_norm.weight", (head_dim,)) for name in ("q", "k")]
        sizes += [(f"{block}mlp.{name}_proj.weight", (inner, hidden)) for name in ("gate", "up")]
        sizes.append((f"{block}mlp.down_proj.weight", (hidden, inner)))
        sizes += [(f"{block}{name}_layernorm.weight", (hidden,)) for name in ("input", "post_attention")]
    sizes.append(("model.norm.weight", (hidden,)))
    if not config.get("tie_word_embeddings"):
        sizes.append(("lm_head.weight", (vocab, hidden)))
    return [TensorLocation(name, "BF16", size, folder, 0, 2 * math.prod(size)) for name, size in sizes]


def get_random_checkpoint_folder(model: LocalModelConfig) -> Path:
    """Return the folder of the random checkpoint, which need not exist yet."""
    cache = Path(model.cache_dir or "~/.cache/runner/random_weights").expanduser().absolute()
    return cache / f"{model.shape}-{hash_preset(model)[:12]}"


def check_random_checkpoint_disk_space(model: LocalModelConfig) -> None:
    """Raise ConfigError if the disk has no space for a random checkpoint. Passes if the checkpoint exists."""
    folder = get_random_checkpoint_folder(model)
    if folder.is_dir():
        return
    needed = sum(tensor.nbytes for tensor in list_random_checkpoint_tensors(read_preset_config(model)))
    fix = "free disk space, choose a larger disk with model.cache_dir=FOLDER, or choose a smaller model"
    check_user_disk_space(folder.parent, needed, f"a checkpoint of {model.shape} with random weights", fix)


def ensure_random_checkpoint(model: LocalModelConfig) -> Path:
    """Return the folder of the random checkpoint. Creates the checkpoint if it does not exist."""
    shape, folder = read_preset_config(model), get_random_checkpoint_folder(model)
    if folder.is_dir():
        return folder
    check_random_checkpoint_disk_space(model)
    cache = folder.parent
    create_folder(cache)
    with lock_file(cache / ".lock"):  # two jobs that need the same one make it once
        if not folder.is_dir():
            write_random_checkpoint(shape, folder)
    return folder


def write_random_checkpoint(config: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint with random weights atomically. An error leaves no partial folder."""
    tensors = list_random_checkpoint_tensors(config)
    total = sum(tensor.nbytes for tensor in tensors)
    name = (f".{folder.name}.", ".partial")
    remove_abandoned_folders(folder.parent, *name)
    with create_temporary_folder(folder.parent, *name) as scratch:
        partial = scratch / "model"
        create_folder(partial)
        _write_checkpoint_files(config, tensors, total, partial)
        partial.rename(folder)


def _write_checkpoint_files(
    config: dict[str, Any], tensors: list[TensorLocation], total_bytes: int, partial_folder: Path
) -> None:
    write_json_atomically(partial_folder / "config.json", config)
    for name in TOKENIZER_FILES:
        shutil.copyfile(MODEL_DIR / name, partial_folder / name)
    shards = _split_into_shards(tensors)
    weight_map: dict[str, str] = {}
    with Progress(total_bytes, "random weights", "bytes") as bar:
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            write_file_atomically(partial_folder / name, _iter_random_shard_bytes(shard, bar))
            weight_map |= dict.fromkeys((tensor.name for tensor in shard), name)
    write_json_atomically(
        partial_folder / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    )


def _split_into_shards(tensors: list[TensorLocation]) -> list[list[TensorLocation]]:
    shards: list[list[TensorLocation]] = [[]]
    size = 0
    for tensor in tensors:
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _iter_random_shard_bytes(
    tensors: list[TensorLocation], progress: Progress
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file. Norms are 1, biases are 0, and other weights are random."""
    pool = memoryview(_generate_random_bfloat16_bytes())
    yield build_safetensors_header(tensors, {"format": "pt"})
    for number, tensor in enumerate(tensors):
        if tensor.name.endswith("norm.weight"):
            yield ONE_BF16 * tensor.num_elements
        elif tensor.name.endswith(".bias"):
            yield bytes(tensor.nbytes)
        else:
            start, missing = 2 * (number * 7919 % POOL_NUMBERS), tensor.nbytes
            while missing:
                piece = pool[start : start + missing]
                yield piece
                missing, start = missing - len(piece), 0
        progress.advance(tensor.nbytes)


def _generate_random_bfloat16_bytes() -> bytes:
    """Return the bytes of normally distributed bfloat16 numbers, from a fixed seed."""
    import numpy as np

    numbers = np.random.default_rng(0).standard_normal(POOL_NUMBERS, dtype=np.float32) * STANDARD_DEVIATION
    return (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
