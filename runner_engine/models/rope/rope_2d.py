"""2D rope: a patch of the rotary embedding that gives each token a branch and a time coordinate.

Of the F frequency pairs, numbered 1 … F, the last n rotate alternately by the two coordinates:
branch, time, branch, … The others rotate by the ordinary position. A single sequence needs no
coordinates: it is branch 0, and its time is the position id that reaches the embedding, so that
prefill, cached decoding, padding and batching agree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from runner_base import ConfigError
from runner_engine.settings.rope import Rope2dConfig

# attributes in which models and wrappers such as PEFT's keep the model
INNER = ("model", "base_model", "language_model", "module")


def list_2d_rope_frequency_pairs(num_pairs: int, ratio: float) -> range:
    """Return which frequency pairs, numbered from 1, rotate by the branch or time coordinate.

    These are the last pairs, and at least one.
    """
    count = min(max(round(num_pairs * ratio), 1), num_pairs)
    return range(num_pairs - count + 1, num_pairs + 1)


class Rope2dEmbedding(nn.Module):
    """Replaces a model's rotary embedding by 2D rope.

    Keeps the original embedding for its frequencies and for restoring it.
    """

    def __init__(self, native: Any, config: Rope2dConfig) -> None:
        super().__init__()
        self.native = native
        self.stride = config.stride
        self.pairs = native.inv_freq.numel()
        self.patched = list_2d_rope_frequency_pairs(self.pairs, config.ratio)
        self.pos2d: torch.Tensor | None = None  # [B or 1, T, 2]: x = branch · stride, y = time
        self.single_stream = True  # without pos2d: derive it from the position ids
        self.grows = any(name in str(getattr(native, "rope_type", "")) for name in ("dynamic", "longrope"))

    @torch.no_grad()
    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of the rotation angles, both [B or 1, T, 2F]."""
        pos2d = self._get_token_coordinates(position_ids)
        position = pos2d[..., 1] if position_ids is None else position_ids.to(x.device)
        if self.grows:
            self.native(x, position)  # it updates its frequencies for the longest position
        frequencies = self.native.inv_freq.to(device=x.device, dtype=torch.float32)
        angles = position[..., None].float() * frequencies  # [B or 1, T, F]
        if pos2d.shape[0] > angles.shape[0]:
            angles = angles.repeat(pos2d.shape[0], 1, 1)
        for coordinate in (0, 1):  # branch: the 1st, 3rd, … of the patched pairs; time: the 2nd, 4th, …
            which = slice(self.patched[0] - 1 + coordinate, None, 2)
            angles[..., which] = pos2d[..., coordinate, None].float().to(x.device) * frequencies[which]
        embedding = torch.cat((angles, angles), dim=-1)
        scaling = getattr(self.native, "attention_scaling", 1.0)
        return (embedding.cos() * scaling).to(x.dtype), (embedding.sin() * scaling).to(x.dtype)

    def _get_token_coordinates(self, position_ids: torch.Tensor | None) -> torch.Tensor:
        if self.pos2d is None:
            if position_ids is None or not self.single_stream:
                raise RuntimeError(
                    "2D rope has no token coordinates. Pass position_ids, or set the branch and time of each "
                    "token: with rope_2d.set_token_coordinates(model, branches, times): ..."
                )
            return torch.stack((torch.zeros_like(position_ids), position_ids), dim=-1)
        if position_ids is not None and position_ids.shape[-1] != self.pos2d.shape[-2]:
            here, given = position_ids.shape[-1], self.pos2d.shape[-2]
            raise RuntimeError(
                f"2D rope has coordinates for {given} tokens, but the forward pass has {here} tokens"
            )
        return self.pos2d

    def describe(self) -> str:
        """Describe which frequency pairs rotate by position, branch and time."""
        first, last = self.patched[0], self.patched[-1]
        which = f"pairs {first}–{last} of {self.pairs}" if first < last else f"pair {last} of {self.pairs}"
        time = f" time {_format_first_two(self.patched[1::2])}" if first < last else ""
        return f"rope_2d, {which}: branch {_format_first_two(self.patched[::2])}{time}, stride {self.stride}"


def patch_rope_2d(model: Any, config: Rope2dConfig) -> Rope2dEmbedding:
    """Replace a loaded model's rotary embedding by 2D rope. Raises ConfigError if the model does
    not support 2D rope.
    """
    parent, name = find_rotary_embedding(model)
    native = getattr(parent, name)
    if isinstance(native, Rope2dEmbedding):
        raise ConfigError(
            "2D rope is already applied to this model. Remove it first",
            key="rope",
            value="rope_2d",
            code="conflict",
        )
    _check_rotary_angle_layout(native, type(parent).__name__)
    patched = Rope2dEmbedding(native, config)
    setattr(parent, name, patched)
    return patched


def unpatch_rope_2d(model: Any) -> bool:
    """Restore the model's original rotary embedding. Returns False if the model has no 2D rope."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, Rope2dEmbedding):
                setattr(parent, name, child.native)
                return True
    return False


def find_rope_2d(model: Any) -> Rope2dEmbedding | None:
    """Return the model's 2D rotary embedding. None if the model has no 2D rope."""
    return next((module for module in model.modules() if isinstance(module, Rope2dEmbedding)), None)


def count_rope_pairs(model: Any) -> int:
    """Count the frequency pairs of a model's rotary embedding. 0 if the model has no rotary
    embedding.
    """
    try:
        parent, name = find_rotary_embedding(model)
    except ConfigError:
        return 0
    rotary = getattr(parent, name)
    return int(rotary.pairs if isinstance(rotary, Rope2dEmbedding) else rotary.inv_freq.numel())


def find_rotary_embedding(model: Any) -> tuple[Any, str]:
    """Find a model's rotary embedding. Returns its parent module and its attribute name in the parent."""
    queue, seen = deque([model]), {id(model)}
    while queue:
        module = queue.popleft()
        for name, child in module.named_children():
            if isinstance(child, Rope2dEmbedding) or isinstance(
                getattr(child, "inv_freq", None), torch.Tensor
            ):
                return module, name
        for name in INNER:
            inner = getattr(module, name, None)
            if isinstance(inner, nn.Module) and id(inner) not in seen:
                seen.add(id(inner))
                queue.append(inner)
    raise ConfigError(
        f"{type(model).__name__} has no rotary embedding with an inv_freq, so 2D rope cannot be applied. "
        f"Searched the attributes {', '.join(INNER)}. Use rope=native",
        key="rope",
        value="rope_2d",
        code="unsupported",
    )


@contextmanager
def set_token_coordinates(model: Any, branches: torch.Tensor, times: torch.Tensor) -> Iterator[None]:
    """Context manager that sets the branch and time coordinates, both [B or 1, T], of the tokens in
    forward passes.
    """
    patch = get_required_rope_2d(model)
    before = patch.pos2d
    patch.pos2d = torch.stack((branches * patch.stride, times), dim=-1)
    try:
        yield
    finally:
        patch.pos2d = before


@contextmanager
def require_token_coordinates(model: Any) -> Iterator[None]:
    """Context manager in which a forward pass without token coordinates raises an error."""
    patch = get_required_rope_2d(model)
    before, patch.single_stream = patch.single_stream, False
    try:
        yield
    finally:
        patch.single_stream = before


def get_required_rope_2d(model: Any) -> Rope2dEmbedding:
    """Return the model's 2D rotary embedding. Raises ConfigError if the model has no 2D rope."""
    patch = find_rope_2d(model)
    if patch is None:
        raise ConfigError(
            "branches need 2D rope, which has two coordinates per token. Use rope=rope_2d",
            key="rope",
            value="native",
            code="missing",
        )
    return patch


def _check_rotary_angle_layout(native: Any, owner: str) -> None:
    """Raise ConfigError if the rotary embedding does not compute cos and sin of cat(angles, angles)."""
    frequencies = native.inv_freq.float()
    x, position_ids = (
        torch.zeros(1, 3, 1, device=frequencies.device, dtype=torch.float32),
        torch.arange(3, device=frequencies.device)[None],
    )
    angles = position_ids[..., None].float() * frequencies
    expected = torch.cat((angles, angles), dim=-1).cos() * getattr(native, "attention_scaling", 1.0)
    try:
        cos, _ = native(x, position_ids)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        cos, reason = None, f" ({error})"
    else:
        reason = ""
    if cos is None or cos.shape != expected.shape or not torch.allclose(cos.float(), expected, atol=1e-5):
        raise ConfigError(
            f"2D rope needs frequency pairs arranged as cat(angles, angles), unlike {type(native).__name__} "
            f"of {owner}{reason}. Use rope=native",
            key="rope",
            value="rope_2d",
            code="unsupported",
        )


def _format_first_two(numbers: range) -> str:
    return f"{', '.join(map(str, numbers[:2]))}{', …' if len(numbers) > 2 else ''}"
