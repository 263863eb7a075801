"""What a .gguf file calls otherwise than transformers does: the settings of a model and its
weights.

For the architectures that are known here, all of it comes from the header that gguf_file.py has
read; what is particular to one of them is in architectures/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner_engine.checkpoints.architectures import architecture_of
from runner_engine.checkpoints.gguf_file import NOT_WEIGHTS
from runner_engine.checkpoints.gguf_header import Header

if TYPE_CHECKING:
    from runner_engine.checkpoints.architectures.base import Architecture, Change
    from runner_engine.checkpoints.weight_files import Tensor

# of byte pairs: each digit is a piece by itself, and the rest is cut by GPT-2's pattern
# (tokenizer.ggml.pre)
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
SPECIAL_TOKENS = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


@dataclass(frozen=True)
class Place:
    """A weight of the model, and the tensors of the file that it is made of."""

    name: str
    tensors: tuple[Tensor, ...]
    change: Change | None = None


@dataclass
class Places:
    """Where the tensors of a file go."""

    weights: list[Place] = field(default_factory=list)
    # the matrices of a layer's experts, and their biases, as the file calls them: by where the
    # experts are
    experts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)  # tensors that no weight is known for


def settings_of(header: Header) -> dict[str, Any]:
    """Return what transformers makes a model's config from, `model_type` among it."""
    from runner_engine.checkpoints.architectures.base import SETTINGS, layer_count

    known, metadata = architecture_of(header), header.metadata
    keys = {f"{header.architecture}.{key}": name for key, name in (SETTINGS | dict(known.settings)).items()}
    keys |= {f"tokenizer.ggml.{its}_token_id": f"{own}_token_id" for its, own in SPECIAL_TOKENS.items()}
    found = {name: _single(metadata[key]) for key, name in keys.items() if key in metadata}
    if "general.name" in metadata:
        found["_model_name_or_path"] = metadata["general.name"]
    if "vocab_size" not in found and "tokenizer.ggml.tokens" in metadata:
        found["vocab_size"] = metadata["tokenizer.ggml.tokens"]  # their number
    names = {tensor.name: tensor for tensor in header.tensors}
    found |= {"model_type": known.model_type, "tie_word_embeddings": "output.weight" not in names}
    if not known.is_read_by_transformers:
        found["num_hidden_layers"] = layer_count(header)
        found = {
            name: value
            for name, value in found.items()
            if value not in (None, 0) or name.endswith("_token_id")
        }
        if (table := names.get("token_embd.weight")) is not None and len(table.shape) == 2:
            found["vocab_size"] = table.shape[0]  # some have more rows than tokens
    return found | known.computed(header)


def places_of(header: Header) -> Places:
    """Return where each tensor of a file goes."""
    from runner_engine.checkpoints.architectures.base import EXPERT_PARTS, GATE_AND_UP, layer_count

    known, places, layers = architecture_of(header), Places(), layer_count(header)
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
        name = weight_name(known, tensor.name)
        layer = f"{known.layers}.{number}"
        if name is not None:
            places.weights.append(
                Place(name, (tensor,), known.change_of(part if is_in_block else tensor.name))
            )
        elif is_in_block and known.experts is not None and part.rpartition(".")[0] in of_experts:
            places.experts.setdefault(f"{layer}.{known.experts}", {})[part] = tensor
        elif not is_in_block or (joined := _joined(known, part)) is None:
            places.unused.append(tensor.name)
        elif part == joined[0][0]:
            together = tuple(
                parts[f"blk.{number}.{one}"] for one in joined[0] if f"blk.{number}.{one}" in parts
            )
            change = known.changes.get(joined[1])
            places.weights.append(Place(f"{layer}.{joined[1]}", together, change))
    return places


def weight_name(known: Architecture, name: str) -> str | None:
    """Return how transformers calls a tensor of the file; None if it has no such weight."""
    stem, _, kind = name.rpartition(".")
    if stem in known.whole and kind in ("weight", "bias"):
        return f"{known.whole[stem]}.{kind}"
    block, _, rest = name.partition(".")
    layer, _, part = rest.partition(".")
    if block != "blk" or not layer.isdecimal():
        return None
    if (whole_part := known.layer.get(part)) is not None:  # a weight of another name, such as A_log
        return f"{known.layers}.{layer}.{whole_part}"
    own = known.layer.get(part.rpartition(".")[0])
    is_joined = _joined(known, part) is not None
    return (
        f"{known.layers}.{layer}.{own}.{kind}"
        if own and kind in ("weight", "bias") and not is_joined
        else None
    )


def _joined(known: Architecture, part: str) -> tuple[tuple[str, ...], str] | None:
    """Return the tensors of which this is one, and the weight that they are together."""
    return next(((parts, name) for parts, name in known.joined.items() if part in parts), None)


def _single(value: Any) -> Any:
    """Return the element of a list that has only one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def cuts_single_digits(metadata: Mapping[str, Any]) -> bool:
    """Whether a file's tokenizer cuts digits apart, which transformers' reading of such files does
    not do."""
    return (
        metadata.get("tokenizer.ggml.pre") in SINGLE_DIGITS and metadata.get("tokenizer.ggml.model") == "gpt2"
    )
