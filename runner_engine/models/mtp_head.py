"""Loads a model's multi-token prediction (MTP) head as a transformers model with one layer.

The embedding of this model is `MtpEmbedding`: the main model's token embeddings, joined with
the outputs of its last norm for the preceding tokens. The rest is a model of the same family
with a single layer, and the output matrix is shared with the main model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from runner_base import ConfigError, join_first_names
from runner_engine.checkpoints.mtp_head import JOINING, OF_ONE_LAYER, find_mtp_head_tensors
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models.build_lock import forbid_concurrent_builds
from runner_engine.settings.speculation import KEY

FEW_TOKENS = 8  # of an embedding that is dropped


class MtpEmbedding(nn.Module):
    """Embedding of an MTP head. Combines each token's embedding with the hidden state of the
    previous position.
    """

    makes_rows = True  # a pass in a single call asks for those of its tokens

    def __init__(self, embedding: Any, norm: Any) -> None:
        """Share `embedding` with the main model. Two copies of `norm` normalize token embeddings
        and hidden states.
        """
        super().__init__()
        self.table: Any = embedding
        self.norm_of_embedding, self.norm_of_hidden = copy.deepcopy(norm), copy.deepcopy(norm)
        width, weight = norm.weight.numel(), norm.weight
        self.join = nn.Linear(2 * width, width, bias=False, dtype=weight.dtype, device=weight.device)
        self.hidden: torch.Tensor | None = None  # [tokens of the next pass, width]; None: zeros

    @property
    def weight(self) -> Any:
        return self.table.weight

    @property
    def num_embeddings(self) -> int:
        """Number of tokens that have an embedding."""
        return int(getattr(self.table, "num_embeddings", len(self.table.weight)))

    @property
    def dtype(self) -> torch.dtype:
        return self.join.weight.dtype

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.table(input)
        hidden = rows.new_zeros(rows.shape) if self.hidden is None else self.hidden.view_as(rows)
        both = self.norm_of_embedding(rows), self.norm_of_hidden(hidden)
        joined: torch.Tensor = self.join(torch.cat(both, dim=-1))
        return joined


@forbid_concurrent_builds
def load_mtp_head(model: Any, resolved: ResolvedModel) -> Any:
    """Load the MTP head from a model's checkpoint as a model with one layer."""
    tensors = find_mtp_head_tensors(resolved.files)
    weights = _read_and_rename_tensors(tensors.items())
    norms = {name: weights.pop(name) for name in JOINING}
    body = model.get_decoder()
    head = _build_mtp_head_model(model, weights, resolved)
    device = next(body.layers[-1].parameters()).device
    joined = MtpEmbedding(model.get_input_embeddings(), head.get_decoder().norm)
    found = joined.load_state_dict(norms, strict=False)
    assert set(found.missing_keys) <= {f"table.{name}" for name, _ in joined.table.named_parameters()}
    head.set_input_embeddings(joined)
    head.set_output_embeddings(model.get_output_embeddings())
    head.get_decoder().rotary_emb = body.rotary_emb
    head.config.vocab_size = model.config.get_text_config().vocab_size
    return head.to(device).eval()


def count_mtp_head_nbytes(head: Any) -> int:
    shared = {head.get_input_embeddings().table, head.get_output_embeddings()}
    theirs = {id(tensor) for module in shared for tensor in module.parameters()}
    return sum(tensor.nbytes for tensor in head.parameters() if id(tensor) not in theirs)


def _build_mtp_head_model(model: Any, head_weights: dict[str, torch.Tensor], resolved: ResolvedModel) -> Any:
    """Build a one-layer model with the weights of the MTP head. Its tiny embedding is replaced later."""
    whole = model.config.get_text_config()
    settings = copy.deepcopy(whole)
    few_tokens = {"vocab_size": FEW_TOKENS, "tie_word_embeddings": False}
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    for key, value in (OF_ONE_LAYER | few_tokens | ends).items():
        if hasattr(settings, key):
            setattr(settings, key, value)
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config  # the head stays in the model's number format
    from transformers import AutoModelForCausalLM

    kind: Any = AutoModelForCausalLM._model_mapping[type(settings)]
    dropped = {
        name: torch.zeros(FEW_TOKENS, whole.hidden_size, dtype=model.dtype)
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    head, report = kind.from_pretrained(
        None, config=settings, state_dict=head_weights | dropped, dtype=model.dtype, output_loading_info=True
    )
    if wrong := sorted([*report["missing_keys"], *report["unexpected_keys"]]):
        raise ConfigError(
            f"the MTP head of model.name={resolved.spec.model.name} does not have exactly one layer. "
            f"Missing or unexpected tensors: {join_first_names(wrong)}",
            key=KEY,
            value="mtp",
            code="damaged",
        )
    return head


def _read_and_rename_tensors(tensors: Iterable[tuple[str, TensorLocation]]) -> dict[str, torch.Tensor]:
    by_file: dict[Any, list[tuple[str, str]]] = {}
    for name, tensor in tensors:
        by_file.setdefault(tensor.file, []).append((name, tensor.name))
    read: dict[str, torch.Tensor] = {}
    for file, names in by_file.items():
        with safe_open(file, framework="pt") as opened:
            read |= {name: opened.get_tensor(stored) for name, stored in names}
    return read
