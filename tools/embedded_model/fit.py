"""The training loop that the base model and both adapters share: batches, loss, schedule,
progress."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from tools.embedded_model.data import Example
from tools.embedded_model.tokenizer import MAX_POSITION

PROMPT_WEIGHT = 0.2  # of a prompt token in the loss; an answer token weighs 1
WINDOW_BATCHES = 16  # examples are sorted by length within this many batches, then the batches are shuffled
CLIP_NORM = 1.0
FINAL_LR_SHARE = 0.03
WARMUP_STEPS = 60
LOG_EVERY_STEPS = 20


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids and the weight of each in the loss, both [batch, length]."""

    ids: Tensor
    weights: Tensor
    tokens: int  # without padding
    positions: Tensor | None = None  # of each token, if they are not those of its place in the row


@dataclass(frozen=True)
class Fitted:
    """The report of a training: the mean loss of its first and last ten steps, tokens, and
    seconds."""

    first_loss: float
    last_loss: float
    tokens: int
    seconds: float


def batches(
    tokenizer: Any, example_at: Callable[[int], Example], batch_size: int, seed: int
) -> Iterator[Batch]:
    """Yield endless batches of examples of similar length (padding costs as much as text)."""
    window_size, start = batch_size * WINDOW_BATCHES, 0
    while True:
        window = [encode(tokenizer, example_at(start + offset)) for offset in range(window_size)]
        window.sort(key=lambda pair: len(pair[0]))
        order = list(range(0, window_size, batch_size))
        Random(f"{seed}/{start}").shuffle(order)
        for first in order:
            yield collate(window[first : first + batch_size])
        start += window_size


def encode(tokenizer: Any, example: Example) -> tuple[list[int], list[float]]:
    """Turn an example into token ids and their weights in the loss."""
    ids: list[int] = []
    weights: list[float] = []
    for piece in example:
        piece_ids = tokenizer.backend_tokenizer.encode(piece.text, add_special_tokens=False).ids
        ids += piece_ids
        weight = 0.0 if piece.is_given else 1.0 if piece.is_answer else PROMPT_WEIGHT
        weights += [weight] * len(piece_ids)
    return ids[:MAX_POSITION], weights[:MAX_POSITION]


def fit(
    name: str,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    data: Iterator[Batch],
    steps: int,
    after_step: Callable[[int], None] | None = None,
    is_bfloat16: bool = True,
    warmup_steps: int = WARMUP_STEPS,
) -> Fitted:
    """Train for `steps` steps at each optimizer's own peak rate: warm-up, then cosine.

    Products in bfloat16 are fast if the processor has them (AVX512), and ten times slower
    otherwise.
    """
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    trained = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    losses: list[float] = []
    tokens, start = 0, time.perf_counter()
    model.train()
    for step in range(1, steps + 1):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * _schedule(step, steps, warmup_steps)
        batch = next(data)
        loss = _loss(model, batch, is_bfloat16)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        tokens += batch.tokens
        if step % LOG_EVERY_STEPS == 0 or step == steps:
            _log_progress(name, step, steps, losses[-LOG_EVERY_STEPS:], tokens, time.perf_counter() - start)
        if after_step is not None:
            after_step(step)
    model.eval()
    return Fitted(_mean(losses[:10]), _mean(losses[-10:]), tokens, time.perf_counter() - start)


def log(text: str) -> None:
    """Print progress: always to stderr, stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def collate(rows: list[tuple[list[int], list[float]]]) -> Batch:
    """Return rows of token ids and weights as one batch."""
    length = max(len(ids) for ids, _ in rows)
    # Padding is on the right and has no weight: with causal attention no real token sees it, so no
    # mask is needed.
    ids = torch.tensor([row_ids + [0] * (length - len(row_ids)) for row_ids, _ in rows])
    weights = torch.tensor([row_weights + [0.0] * (length - len(row_weights)) for _, row_weights in rows])
    return Batch(ids, weights, sum(len(row_ids) for row_ids, _ in rows))


def _loss(model: nn.Module, batch: Batch, is_bfloat16: bool) -> Tensor:
    places: dict[str, Tensor] = {}
    if (
        batch.positions is not None
    ):  # without a mask transformers takes a gap for the beginning of another text
        places = {"position_ids": batch.positions, "attention_mask": torch.ones_like(batch.ids)}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bfloat16):
        logits = model(input_ids=batch.ids, use_cache=False, **places).logits  # [batch, length, vocab]
    per_token = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.ids[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    return (per_token * weights).sum() / weights.sum()


def _schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak rate: linear warm-up, cosine to 3 %."""
    warmup = min(warmup_steps, max(1, steps // 5))
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))


def _log_progress(name: str, step: int, steps: int, losses: list[float], tokens: int, seconds: float) -> None:
    left_s = seconds / step * (steps - step)
    log(
        f"{name}  step {step}/{steps}  loss {_mean(losses):.3f}  "
        f"{tokens / seconds:,.0f} tok_per_s  {seconds:.0f} s  {left_s:.0f} s left"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
