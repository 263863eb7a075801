"""model.random_weights=true: a checkpoint with a preset's shape and random weights, to measure
memory and speed.

It is an ordinary folder (config.json, safetensors, the embedded model's tokenizer), so everything
that works on a model works on it: quantizing, splitting, measuring. Its answers mean nothing. It is
made once, without torch, and kept in a cache folder; a plan does not need the files.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner_base import ConfigError, Progress, hold, unknown
from runner_base.own_folders import remove_abandoned, temporary_folder
from runner_engine.checkpoints.byteio import build_header, make_folder, require_room, write_file, write_json
from runner_engine.checkpoints.weight_files import INDEX, Tensor
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


def read_shape(model: LocalModelConfig) -> dict[str, Any]:
    """Return the config.json of the preset's shape; only presets have one."""
    names = [file.stem for file in SHAPES_DIR.glob("*.json")]
    if model.shape not in names:
        what = (
            f"model.name={model.name} has none"
            if model.shape is None
            else unknown("shape", model.shape, names)
        )
        presets = "|".join(sorted(names))
        raise ConfigError(
            f"model.random_weights=true needs a known shape: {what}. Pick one: model={presets}",
            code="missing" if model.shape is None else "unknown_choice",
        )
    shape: dict[str, Any] = json.loads((SHAPES_DIR / f"{model.shape}.json").read_text())
    return shape | special_tokens()


def special_tokens() -> dict[str, Any]:
    """Return the special token ids of the checkpoint's tokenizer, under their keys in
    config.json."""
    tokens = json.loads((MODEL_DIR / "config.json").read_text())
    return {key: tokens[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}


def sha256(model: LocalModelConfig) -> str:
    """Return a hash of everything that decides the checkpoint's content."""
    return hashlib.sha256(f"{RECIPE} {json.dumps(read_shape(model), sort_keys=True)}".encode()).hexdigest()


def list_tensors(shape: dict[str, Any], folder: Path = Path()) -> list[Tensor]:
    """List the tensors of a Llama, Qwen2, Qwen3 or Mistral shape as they are on disk, in the order
    of the layers."""
    hidden, inner, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    head_dim = shape.get("head_dim") or hidden // heads
    sizes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (vocab, hidden))]
    for layer in range(shape["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        outputs = {"q_proj": heads * head_dim, "k_proj": kv_heads * head_dim, "v_proj": kv_heads * head_dim}
        for name, size in outputs.items():
            sizes.append((f"{block}self_attn.{name}.weight", (size, hidden)))
            if shape["model_type"] == "qwen2":
                sizes.append((f"{block}self_attn.{name}.bias", (size,)))
        sizes.append((f"{block}self_attn.o_proj.weight", (hidden, heads * head_dim)))
        if shape["model_type"] == "qwen3":
            sizes += [(f"{block}self_attn.{name}_norm.weight", (head_dim,)) for name in ("q", "k")]
        sizes += [(f"{block}mlp.{name}_proj.weight", (inner, hidden)) for name in ("gate", "up")]
        sizes.append((f"{block}mlp.down_proj.weight", (hidden, inner)))
        sizes += [(f"{block}{name}_layernorm.weight", (hidden,)) for name in ("input", "post_attention")]
    sizes.append(("model.norm.weight", (hidden,)))
    if not shape.get("tie_word_embeddings"):
        sizes.append(("lm_head.weight", (vocab, hidden)))
    return [Tensor(name, "BF16", size, folder, 0, 2 * math.prod(size)) for name, size in sizes]


def place(model: LocalModelConfig) -> Path:
    """Return the folder that the checkpoint is, or will be, in."""
    cache = Path(model.cache_dir or "~/.cache/runner/random_weights").expanduser().absolute()
    return cache / f"{model.shape}-{sha256(model)[:12]}"


def check_disk(model: LocalModelConfig) -> None:
    """Reject a checkpoint that is not made yet and does not fit on its disk; its size follows from
    its shape."""
    folder = place(model)
    if folder.is_dir():
        return
    needed = sum(tensor.nbytes for tensor in list_tensors(read_shape(model)))
    fix = "make room, name a larger disk with model.cache_dir=FOLDER, or pick a smaller shape"
    require_room(
        folder.parent, needed, f"model.random_weights=true: noise in the shape of {model.shape}", fix
    )


def make(model: LocalModelConfig) -> Path:
    """Return the folder of the checkpoint, making it when it is not there yet."""
    shape, folder = read_shape(model), place(model)
    if folder.is_dir():
        return folder
    check_disk(model)
    cache = folder.parent
    make_folder(cache)
    with hold(cache / ".lock"):  # two jobs that need the same one make it once
        if not folder.is_dir():
            write(shape, folder)
    return folder


def write(shape: dict[str, Any], folder: Path) -> None:
    """Write the checkpoint of a shape completely, or not at all."""
    tensors = list_tensors(shape)
    total = sum(tensor.nbytes for tensor in tensors)
    name = (f".{folder.name}.", ".partial")
    remove_abandoned(folder.parent, *name)
    with temporary_folder(folder.parent, *name) as scratch:
        partial = scratch / "model"
        make_folder(partial)
        _write_files(shape, tensors, total, partial)
        partial.rename(folder)


def _write_files(shape: dict[str, Any], tensors: list[Tensor], total: int, partial: Path) -> None:
    write_json(partial / "config.json", shape)
    for name in TOKENIZER_FILES:
        shutil.copyfile(MODEL_DIR / name, partial / name)
    shards = _shards(tensors)
    weight_map: dict[str, str] = {}
    with Progress(total, "random weights", "B") as bar:
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            write_file(partial / name, _pieces(shard, bar))
            weight_map |= dict.fromkeys((tensor.name for tensor in shard), name)
    write_json(partial / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(tensors: list[Tensor]) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def _pieces(tensors: list[Tensor], bar: Progress) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file: norms are 1, biases 0, everything else comes from one pool of
    noise."""
    pool = memoryview(_noise())
    yield build_header(tensors, {"format": "pt"})
    for number, tensor in enumerate(tensors):
        if tensor.name.endswith("norm.weight"):
            yield ONE_BF16 * tensor.params
        elif tensor.name.endswith(".bias"):
            yield bytes(tensor.nbytes)
        else:
            start, missing = 2 * (number * 7919 % POOL_NUMBERS), tensor.nbytes
            while missing:
                piece = pool[start : start + missing]
                yield piece
                missing, start = missing - len(piece), 0
        bar.advance(tensor.nbytes)


def _noise() -> bytes:
    """Return normal numbers as bfloat16, the same ones every time."""
    import numpy as np

    numbers = np.random.default_rng(0).standard_normal(POOL_NUMBERS, dtype=np.float32) * STANDARD_DEVIATION
    return (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
