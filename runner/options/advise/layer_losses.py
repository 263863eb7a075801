"""Measures the loss from quantizing each linear layer alone.

The loss is the KL divergence from the unrounded model over full distributions, in nats per
token. A layer's weights become the format's dequantized weights, and are multiplied in
float32, because 16-bit activation rounding would hide the loss of a good format. Further
rounding by a format's kernels shows in the jobs that measure a whole mix.
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
from runner_engine.checkpoints import get_block_path
from runner_engine.models.base_loading import load_base_model
from runner_engine.models.loading import mixed

MOST_TOKENS = 24  # of a text that are scored: single losses need little context
PASS_TOKENS = 1024  # of texts that are read together


def measure_quantization_loss_per_layer(
    resolved: ResolvedJob,
    requests: Sequence[Request],
    layer_groups: Mapping[str, Sequence[str]],
    formats: Mapping[str, QuantizationConfig],
    on_progress: Callable[[], None],
) -> dict[str, dict[str, float]]:
    """Measure the loss of each layer, or group of layers, in each format. All other layers stay
    unquantized.
    """
    loaded = load_base_model(resolved.model)
    loaded.model.float()
    mixed.separate_experts(loaded.model)
    torch.set_num_threads(
        resolved.model.files.model.threads or machine.num_threads_for_model(loaded.model.num_parameters())
    )
    stored = getattr(torch, resolved.model.files.dtype)
    encoder = RequestEncoder(resolved.model.spec, loaded.tokenizer, resolved.config.model.name, float("inf"))
    texts = []
    for request in requests:
        for row in encoder.create_sequences(request):
            begin = max(len(row.prompt), 1)
            texts.append(([*row.prompt, *(row.given or [])][: begin + MOST_TOKENS], begin))
    reading = _LossMeasurement(
        loaded.model, [text for text in texts if len(text[0]) > text[1]], loaded.device
    )
    losses: dict[str, dict[str, float]] = {}
    for name, paths in layer_groups.items():
        modules = {path: loaded.model.get_submodule(path) for path in paths}
        plain = {path: module.weight.data for path, module in modules.items()}
        losses[name] = {}
        with reading.replay_stored_outputs_before_block(get_block_path(paths[0])):
            for choice_name, choice in formats.items():
                for path, module in modules.items():
                    module.weight.data = quantize_and_dequantize(choice, loaded.model, module, path, stored)
                try:
                    losses[name][choice_name] = reading.compute_kl_nats_per_token()
                finally:
                    for path, module in modules.items():
                        module.weight.data = plain[path]
        on_progress()
    return losses


def quantize_and_dequantize(
    quantization: QuantizationConfig, model: Any, layer: Any, path: str, dtype: torch.dtype
) -> torch.Tensor:
    """Return a layer's weight after quantization and dequantization, in the layer's own dtype."""
    plain = copy.deepcopy(layer).to(dtype)
    plain.bias, weight = None, plain.weight.data
    quantized = mixed.quantize_layer(quantization, model, plain, path)
    # GPT-2's linear layer has its weight the other way round
    is_transposed = type(layer).__name__ == "Conv1D"
    inputs = weight.shape[0] if is_transposed else weight.shape[1]
    with torch.inference_mode():  # a row of the unit matrix picks a column of the weight
        columns = quantized(torch.eye(inputs, dtype=weight.dtype, device=weight.device))
    made: torch.Tensor = columns if is_transposed else columns.T
    return made.to(layer.weight.dtype).contiguous().clone()


class _LossMeasurement:
    """Measures the loss of quantizing a single layer by comparing the model's token probabilities before and
    after.
    """

    def __init__(self, model: Any, texts: Sequence[tuple[list[int], int]], device: torch.device) -> None:
        self.model, self.number = model, 0
        self.batches: list[
            tuple[torch.Tensor, list[tuple[int, int]]]
        ] = []  # ids, and which positions are scored
        for some in _batch_texts_by_length(texts):
            longest = max(len(ids) for ids, _ in some)
            # behind all that is scored
            padded = [[*ids, *[0] * (longest - len(ids))] for ids, _ in some]
            self.batches.append(
                (torch.tensor(padded, device=device), [(begin - 1, len(ids) - 1) for ids, begin in some])
            )
        blocks = sorted(
            {get_block_path(name) for name, _ in model.named_modules() if _has_numeric_component(name)},
            key=_split_block_path,
        )
        self.blocks = [path for path in blocks if isinstance(model.get_submodule(path), torch.nn.Module)]
        self.outputs: dict[str, list[Any]] = {path: [] for path in self.blocks}
        hooks = [
            model.get_submodule(path).register_forward_hook(
                lambda _module, _forward_inputs, output, path=path: self.outputs[path].append(output)
            )
            for path in self.blocks
        ]
        self.plain = [self._compute_logprobs(number) for number in range(len(self.batches))]
        for hook in hooks:
            hook.remove()

    def compute_kl_nats_per_token(self) -> float:
        """Return the KL divergence of the model's current weights from the unquantized model, in
        nats per token.
        """
        nats, tokens = 0.0, 0
        for number, plain in enumerate(self.plain):
            nats += float((plain.exp() * (plain - self._compute_logprobs(number))).sum())
            tokens += len(plain)
        return max(nats / tokens, 0.0)

    @contextmanager
    def replay_stored_outputs_before_block(self, block_path: str) -> Iterator[None]:
        """Replay stored activations within this context, instead of computing the transformer blocks before
        `block_path`.
        """
        before = self.blocks[: self.blocks.index(block_path)] if self._has_sequential_blocks else []
        modules = [self.model.get_submodule(path) for path in before]
        for path, module in zip(before, modules, strict=True):
            module.forward = lambda *_, path=path, **__: self.outputs[path][self.number]
        try:
            yield
        finally:
            for module in modules:
                del module.forward

    @property
    def _has_sequential_blocks(self) -> bool:
        lists = {path.rpartition(".")[0] for path in self.blocks}
        return len(lists) == 1 and all(len(some) == len(self.batches) for some in self.outputs.values())

    @torch.inference_mode()
    def _compute_logprobs(self, batch_index: int) -> torch.Tensor:
        self.number = batch_index
        ids, scored = self.batches[batch_index]
        logits = self.model(input_ids=ids, use_cache=False).logits
        rows = [logits[row, begin:end] for row, (begin, end) in enumerate(scored)]
        return torch.cat(rows).float().log_softmax(-1)


def _batch_texts_by_length(texts: Sequence[tuple[list[int], int]]) -> Iterator[list[tuple[list[int], int]]]:
    """Yield batches of texts that have nearly the same number of tokens."""
    batch: list[tuple[list[int], int]] = []
    for text in sorted(texts, key=lambda text: len(text[0])):
        if batch and len(text[0]) * (len(batch) + 1) > PASS_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _has_numeric_component(module_path: str) -> bool:
    return any(part.isdigit() for part in module_path.split("."))


def _split_block_path(path: str) -> tuple[str, int]:
    head, _, number = path.rpartition(".")
    return head, int(number)
