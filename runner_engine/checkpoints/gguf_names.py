"""Maps the settings and tensor names of a .gguf file to those of transformers.

For supported architectures, everything comes from the header that gguf_file.py has read;
architectures/ has the parts specific to each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner_engine.checkpoints.architectures import find_gguf_architecture
from runner_engine.checkpoints.gguf_file import NOT_WEIGHTS
from runner_engine.checkpoints.gguf_header import GgufHeader

if TYPE_CHECKING:
    from runner_engine.checkpoints.architectures.base import Architecture, TensorChange
    from runner_engine.checkpoints.weight_files import TensorLocation

# of byte pairs: each digit is a piece by itself, and the rest is cut by GPT-2's pattern
# (tokenizer.ggml.pre)
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


@dataclass(frozen=True)
class WeightMapping:
    """A weight of the model, and the .gguf tensors from which it is loaded."""

    name: str
    tensors: tuple[TensorLocation, ...]
    change: TensorChange | None = None


@dataclass
class TensorMapping:
    """Maps a .gguf file's tensors to the weights and experts of the model."""

    weights: list[WeightMapping] = field(default_factory=list)
    # the matrices of a layer's experts, and their biases, as the file calls them: by where the
    # experts are
    experts: dict[str, dict[str, TensorLocation]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)  # tensors that no weight is known for


def build_transformers_config_dict(header: GgufHeader) -> dict[str, Any]:
    from runner_engine.checkpoints.architectures.base import SETTINGS, count_decoder_layers

    known, metadata = find_gguf_architecture(header), header.metadata
    keys = {f"{header.architecture}.{key}": name for key, name in (SETTINGS | dict(known.settings)).items()}
    keys |= {f"tokenizer.ggml.{its}_token_id": f"{own}_token_id" for its, own in SPECIAL_TOKENS.items()}
    found = {name: _unwrap_single_element(metadata[key]) for key, name in keys.items() if key in metadata}
    if "general.name" in metadata:
        found["_model_name_or_path"] = metadata["general.name"]
    if "vocab_size" not in found and "tokenizer.ggml.tokens" in metadata:
        found["vocab_size"] = metadata["tokenizer.ggml.tokens"]  # their number
    names = {tensor.name: tensor for tensor in header.tensors}
    found |= {"model_type": known.model_type, "tie_word_embeddings": "output.weight" not in names}
    if not known.is_read_by_transformers:
        found["num_hidden_layers"] = count_decoder_layers(header)
        found = {
            name: value
            for name, value in found.items()
            if value not in (None, 0) or name.endswith("_token_id")
        }
        if (table := names.get("token_embd.weight")) is not None and len(table.shape) == 2:
            found["vocab_size"] = table.shape[0]  # some have more rows than tokens
    return found | known.computed(header)


def map_gguf_tensors(header: GgufHeader) -> TensorMapping:
    from runner_engine.checkpoints.architectures.base import EXPERT_PARTS, GATE_AND_UP, count_decoder_layers

    known, places, layers = find_gguf_architecture(header), TensorMapping(), count_decoder_layers(header)
    of_experts = {*EXPERT_PARTS, GATE_AND_UP}
    parts = {tensor.name: tensor for tensor in header.tensors}
    for tensor in header.tensors:
        if tensor.name in NOT_WEIGHTS:
            continue
        block, _, rest = tensor.name.partition(".")
        number, _, part = rest.partition(".")
        is_in_block = block == "blk" and number.isdecimal()
        if is_in_block and int(number) >= layers:
            continue  # predicts further tokens
        name = find_transformers_weight_name(known, tensor.name)
        layer = f"{known.layers}.{number}"
        if name is not None:
            places.weights.append(
                WeightMapping(
                    name, (tensor,), known.find_tensor_conversion(part if is_in_block else tensor.name)
                )
            )
        elif is_in_block and known.experts is not None and part.rpartition(".")[0] in of_experts:
            places.experts.setdefault(f"{layer}.{known.experts}", {})[part] = tensor
        elif not is_in_block or (joined := _find_joined_weight(known, part)) is None:
            places.unused.append(tensor.name)
        elif part == joined[0][0]:
            together = tuple(
                parts[f"blk.{number}.{one}"] for one in joined[0] if f"blk.{number}.{one}" in parts
            )
            change = known.changes.get(joined[1])
            places.weights.append(WeightMapping(f"{layer}.{joined[1]}", together, change))
    return places


def find_transformers_weight_name(architecture: Architecture, tensor_name: str) -> str | None:
    """Return transformers' name for a .gguf tensor. None if the model has no such weight."""
    stem, _, kind = tensor_name.rpartition(".")
    if stem in architecture.whole and kind in ("weight", "bias"):
        return f"{architecture.whole[stem]}.{kind}"
    block, _, rest = tensor_name.partition(".")
    layer, _, part = rest.partition(".")
    if block != "blk" or not layer.isdecimal():
        return None
    if (whole_part := architecture.layer.get(part)) is not None:  # a weight of another name, such as A_log
        return f"{architecture.layers}.{layer}.{whole_part}"
    own = architecture.layer.get(part.rpartition(".")[0])
    is_joined = _find_joined_weight(architecture, part) is not None
    return (
        f"{architecture.layers}.{layer}.{own}.{kind}"
        if own and kind in ("weight", "bias") and not is_joined
        else None
    )


def _find_joined_weight(architecture: Architecture, tensor_suffix: str) -> tuple[tuple[str, ...], str] | None:
    """Return the suffixes of the tensors that are concatenated to one weight, and the weight's name.

    None if the given tensor is not joined with others.
    """
    return next(
        ((parts, name) for parts, name in architecture.joined.items() if tensor_suffix in parts), None
    )


def _unwrap_single_element(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def splits_single_digits(metadata: Mapping[str, Any]) -> bool:
    """Whether a .gguf file's tokenizer splits numbers into digits, a setting that transformers ignores."""
    return (
        metadata.get("tokenizer.ggml.pre") in SINGLE_DIGITS and metadata.get("tokenizer.ggml.model") == "gpt2"
    )
