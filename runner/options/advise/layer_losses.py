"""What each linear layer loses in each format: one layer alone is rounded, and some texts are read.

The loss is the divergence from the unrounded model over whole distributions, in nats a token. A
layer's weights become what the format makes of them, and are multiplied as plain ones in float32:
in 16 bits the rounding of activations would hide the loss of a good format. What a format's kernels
round besides shows in the jobs that measure a whole mix.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from runner.config.resolved import ResolvedJob
from runner_base import machine
from runner_engine import QuantizationConfig, Request, RequestEncoder
from runner_engine.checkpoints import block_of
from runner_engine.models.load import load_base
from runner_engine.models.loading import mixed

MOST_TOKENS = 24  # of a text that are scored: single losses need little context
PASS_TOKENS = 1024  # of texts that are read together


def measure(
    resolved: ResolvedJob,
    requests: Sequence[Request],
    layers: Mapping[str, Sequence[str]],
    formats: Mapping[str, QuantizationConfig],
    on_layer: Callable[[], None],
) -> dict[str, dict[str, float]]:
    """Return the loss of each layer, or of several together, in each format, measured on texts with
    a plain model."""
    loaded = load_base(resolved.model)
    loaded.model.float()
    mixed.take_experts_apart(loaded.model)
    torch.set_num_threads(
        resolved.model.files.model.threads or machine.threads_for(loaded.model.num_parameters())
    )
    stored = getattr(torch, resolved.model.files.dtype)
    encoder = RequestEncoder(resolved.model.spec, loaded.tokenizer, resolved.config.model.name, float("inf"))
    texts = []
    for request in requests:
        for row in encoder.rows(request):
            begin = max(len(row.prompt), 1)
            texts.append(([*row.prompt, *(row.given or [])][: begin + MOST_TOKENS], begin))
    reading = _Reading(loaded.model, [text for text in texts if len(text[0]) > text[1]], loaded.device)
    losses: dict[str, dict[str, float]] = {}
    for name, paths in layers.items():
        modules = {path: loaded.model.get_submodule(path) for path in paths}
        plain = {path: module.weight.data for path, module in modules.items()}
        losses[name] = {}
        with reading.from_block(block_of(paths[0])):
            for choice_name, choice in formats.items():
                for path, module in modules.items():
                    module.weight.data = rounded_weight(choice, loaded.model, module, path, stored)
                try:
                    losses[name][choice_name] = reading.loss()
                finally:
                    for path, module in modules.items():
                        module.weight.data = plain[path]
        on_layer()
    return losses


def rounded_weight(
    choice: QuantizationConfig, model: Any, layer: Any, path: str, dtype: torch.dtype
) -> torch.Tensor:
    """Return a layer's weight after a choice has quantized it in a model of this number format, in
    the layer's own."""
    plain = copy.deepcopy(layer).to(dtype)
    plain.bias, weight = None, plain.weight.data
    quantized = mixed.quantized(choice, model, plain, path)
    # GPT-2's linear layer has its weight the other way round
    is_transposed = type(layer).__name__ == "Conv1D"
    inputs = weight.shape[0] if is_transposed else weight.shape[1]
    with torch.inference_mode():  # a row of the unit matrix picks a column of the weight
        columns = quantized(torch.eye(inputs, dtype=weight.dtype, device=weight.device))
    made: torch.Tensor = columns if is_transposed else columns.T
    return made.to(layer.weight.dtype).contiguous().clone()


class _Reading:
    """Reads the same texts again and again with a model one layer of which has changed, and
    compares."""

    def __init__(self, model: Any, texts: Sequence[tuple[list[int], int]], device: torch.device) -> None:
        self.model, self.number = model, 0
        self.batches: list[
            tuple[torch.Tensor, list[tuple[int, int]]]
        ] = []  # ids, and which positions are scored
        for some in _batches(texts):
            longest = max(len(ids) for ids, _ in some)
            # behind all that is scored
            padded = [[*ids, *[0] * (longest - len(ids))] for ids, _ in some]
            self.batches.append(
                (torch.tensor(padded, device=device), [(begin - 1, len(ids) - 1) for ids, begin in some])
            )
        blocks = sorted(
            {block_of(name) for name, _ in model.named_modules() if _has_number(name)}, key=_number_of
        )
        self.blocks = [path for path in blocks if isinstance(model.get_submodule(path), torch.nn.Module)]
        self.outputs: dict[str, list[Any]] = {path: [] for path in self.blocks}
        hooks = [
            model.get_submodule(path).register_forward_hook(
                lambda _module, _inputs, output, path=path: self.outputs[path].append(output)
            )
            for path in self.blocks
        ]
        self.plain = [self._logprobs(number) for number in range(len(self.batches))]
        for hook in hooks:
            hook.remove()

    def loss(self) -> float:
        """Return the divergence of the model as it is now from the model as it was, in nats a
        token."""
        nats, tokens = 0.0, 0
        for number, plain in enumerate(self.plain):
            nats += float((plain.exp() * (plain - self._logprobs(number))).sum())
            tokens += len(plain)
        return max(nats / tokens, 0.0)

    @contextmanager
    def from_block(self, block: str) -> Iterator[None]:
        """Take the outputs of the blocks before one from memory: its layers change nothing
        there."""
        before = self.blocks[: self.blocks.index(block)] if self._is_a_chain else []
        modules = [self.model.get_submodule(path) for path in before]
        for path, module in zip(before, modules, strict=True):
            module.forward = lambda *_, path=path, **__: self.outputs[path][self.number]
        try:
            yield
        finally:
            for module in modules:
                del module.forward

    @property
    def _is_a_chain(self) -> bool:
        """Whether the blocks belong to one list and each ran once for each text, in order."""
        lists = {path.rpartition(".")[0] for path in self.blocks}
        return len(lists) == 1 and all(len(some) == len(self.batches) for some in self.outputs.values())

    @torch.inference_mode()
    def _logprobs(self, number: int) -> torch.Tensor:
        self.number = number
        ids, scored = self.batches[number]
        logits = self.model(input_ids=ids, use_cache=False).logits
        rows = [logits[row, begin:end] for row, (begin, end) in enumerate(scored)]
        return torch.cat(rows).float().log_softmax(-1)


def _batches(texts: Sequence[tuple[list[int], int]]) -> Iterator[list[tuple[list[int], int]]]:
    """Yield texts of nearly equal length that are read together."""
    batch: list[tuple[list[int], int]] = []
    for text in sorted(texts, key=lambda text: len(text[0])):
        if batch and len(text[0]) * (len(batch) + 1) > PASS_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _has_number(path: str) -> bool:
    return any(part.isdigit() for part in path.split("."))


def _number_of(path: str) -> tuple[str, int]:
    head, _, number = path.rpartition(".")
    return head, int(number)
