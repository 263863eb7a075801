"""A loaded part of a model, which takes hidden states through its layers.

A stage is the family's own class with fewer layers, so that masks, cache and rotary embedding stay the model's own.
Missing modules (the embedding in all stages but the first, the final norm and the head in all but the last) are
replaced by placeholders. The family's code still runs from end to end, but two hooks replace its ends: the hidden
states of the previous stage go directly into the first layer, past whatever the family does to embeddings, and the
output of the last layer is taken before the final norm. A placeholder that is called between the two raises an error.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from runner_base import DataError


class PassState(StrEnum):
    """How far a forward pass of a stage has come."""

    before = "before its layers"
    inside = "inside its layers"
    after = "after its layers"


class AbsentModule(torch.nn.Module):
    """Replaces a module whose weights are in another part; it may be called only where its output
    is discarded."""

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__()
        self.name, self.stage = name, stage

    def forward(self, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Return the value, or a zero to add in place of an embedding of token ids or positions."""
        stage = self.stage
        is_discarded = {PassState.before: not stage.is_first, PassState.after: not stage.is_last}
        if not is_discarded.get(stage.where, False):
            raise DataError(
                f"part {stage.part_id} needs {self.name} {stage.where.value}, and does not have it",
                code="damaged",
            )
        return value if value.is_floating_point() else torch.zeros((), device=value.device)


@dataclass(eq=False)
class Stage:
    """A loaded part. Call it with token ids (the first) or hidden states (the others).

    It returns hidden states [B, T, H], the last one logits [B, T, V].
    """

    model: Any  # the family's causal language model, with this part's layers only
    layers: torch.nn.ModuleList
    part_id: int
    span: tuple[int, int]  # first and last layer in the whole model, both included
    is_first: bool
    is_last: bool
    dtype: torch.dtype
    load_s: float = 0.0
    where: PassState = PassState.before  # how far the forward pass has come
    _received: torch.Tensor | None = None  # the input of the first layer
    _sent: torch.Tensor | None = None  # the output of the last layer
    _takes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        target = self.model if self.is_last else self.model.base_model
        self._takes = frozenset(inspect.signature(target.forward).parameters)
        self.layers[0].register_forward_pre_hook(self._enter, with_kwargs=True)
        self.layers[-1].register_forward_hook(self._leave)

    @property
    def nbytes(self) -> int:
        """Bytes of its weights and buffers."""
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers()))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        at: torch.device = next(self.model.parameters()).device
        return at

    def lacks(self, name: str) -> None:
        """Replace a module whose weights are in another part by a placeholder."""
        owner, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(owner), leaf, AbsentModule(name, self))

    def new_cache(self) -> Any:
        """Return an empty KV cache for this part's layers."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def __call__(
        self,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        last_only: bool = False,
    ) -> torch.Tensor:
        """Take token ids [B, T] or hidden states [B, T, H] through the layers; last_only: logits of
        the last token."""
        self._begin(None if self.is_first else values)
        arguments: dict[str, Any] = {"attention_mask": attention_mask, "position_ids": position_ids}
        arguments |= {"past_key_values": cache, "use_cache": cache is not None}
        arguments["input_ids" if self.is_first else "inputs_embeds"] = values
        if self.is_last and last_only and "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = 1
        if "position_ids" not in self._takes:  # these families derive positions from the mask
            del arguments["position_ids"]
        try:
            with torch.inference_mode():
                if self.is_last:
                    logits: torch.Tensor = self.model(**arguments).logits
                    return logits[:, -1:] if last_only else logits
                self.model.base_model(**arguments)
                assert self._sent is not None, "the last layer was not run"
                return self._sent
        finally:
            self._begin(None)  # release the tensors

    def _begin(self, received: torch.Tensor | None) -> None:
        """Start a pass."""
        self.where, self._received, self._sent = PassState.before, received, None

    def _enter(self, _: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Replace the input of the first layer by the hidden states of the previous stage."""
        self.where = PassState.inside
        if self._received is None:
            return arguments, named
        if arguments:
            return (self._received, *arguments[1:]), named
        return arguments, named | {"hidden_states": self._received}

    def _leave(self, _: Any, __: Any, output: Any) -> None:
        """Keep the output of the last layer."""
        self.where = PassState.after
        self._sent = output[0] if isinstance(output, tuple) else output
