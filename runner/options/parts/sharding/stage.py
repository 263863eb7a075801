"""Pipeline stage: a loaded part of a model that computes hidden states with its own layers only.

A stage is the model family's own class with fewer layers, so masks, cache and rotary
embedding remain the model's. Placeholders replace missing modules: the embedding in all
stages but the first, the final norm and head in all but the last.

The family's code still runs completely, but two hooks replace its ends. The previous
stage's hidden states go directly into the first layer, without the family's processing of
embeddings. The last layer's output is taken before the final norm. A placeholder called
between the two hooks raises an error.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch

from runner_base import DataError


class ForwardPhase(StrEnum):
    """Phase of a stage's forward pass: before, inside or after its layers."""

    before = "before the layers"
    inside = "inside the layers"
    after = "after the layers"


class AbsentModule(torch.nn.Module):
    """Placeholder for a model's module whose weights belong to another part.

    The caller must discard its output.
    """

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__()
        self.name, self.stage = name, stage

    def forward(self, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Return floating-point input unchanged, and a scalar 0 instead of token ids or positions."""
        stage = self.stage
        is_discarded = {ForwardPhase.before: not stage.is_first, ForwardPhase.after: not stage.is_last}
        if not is_discarded.get(stage.where, False):
            raise DataError(
                f"part {stage.part_id} lacks module {self.name}, which the model calls {stage.where.value}",
                code="damaged",
            )
        return value if value.is_floating_point() else torch.zeros((), device=value.device)


@dataclass(eq=False)
class Stage:
    """A loaded part of a model. The first stage takes token ids, the other stages take hidden states.

    Output: hidden states [B, T, H], or logits [B, T, V] in the last stage.
    """

    model: Any  # the family's causal language model, with this part's layers only
    layers: torch.nn.ModuleList
    part_id: int
    span: tuple[int, int]  # first and last layer in the whole model, both included
    is_first: bool
    is_last: bool
    dtype: torch.dtype
    load_s: float = 0.0
    where: ForwardPhase = ForwardPhase.before  # how far the forward pass has come
    _received: torch.Tensor | None = None  # the input of the first layer
    _sent: torch.Tensor | None = None  # the output of the last layer
    _takes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        target = self.model if self.is_last else self.model.base_model
        self._takes = frozenset(inspect.signature(target.forward).parameters)
        self.layers[0].register_forward_pre_hook(self._replace_input_with_received_states, with_kwargs=True)
        self.layers[-1].register_forward_hook(self._store_last_layer_output)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the stage's weights and buffers."""
        return sum(tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers()))

    @property
    def device(self) -> torch.device:
        at: torch.device = next(self.model.parameters()).device
        return at

    def replace_module_with_placeholder(self, module_path: str) -> None:
        """Replace a module whose weights belong to another part by a placeholder."""
        owner, _, leaf = module_path.rpartition(".")
        setattr(self.model.get_submodule(owner), leaf, AbsentModule(module_path, self))

    def new_cache(self) -> Any:
        """Return an empty KV cache for the layers of this stage."""
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
        """Pass token ids [B, T] or hidden states [B, T, H] through the layers. With last_only, return only
        the last token's logits.
        """
        self._begin_forward(None if self.is_first else values)
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
                assert self._sent is not None, "the last layer was not executed"
                return self._sent
        finally:
            self._begin_forward(None)  # release the tensors

    def _begin_forward(self, hidden_states: torch.Tensor | None) -> None:
        self.where, self._received, self._sent = ForwardPhase.before, hidden_states, None

    def _replace_input_with_received_states(
        self, module: Any, arguments: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Forward hook that replaces the first layer's input by the previous stage's hidden states."""
        self.where = ForwardPhase.inside
        if self._received is None:
            return arguments, kwargs
        if arguments:
            return (self._received, *arguments[1:]), kwargs
        return arguments, kwargs | {"hidden_states": self._received}

    def _store_last_layer_output(self, module: Any, inputs: Any, output: Any) -> None:
        self.where = ForwardPhase.after
        self._sent = output[0] if isinstance(output, tuple) else output
