"""HQQ: group-quantized integers of 2 to 8 bits, with zero points found by half-quadratic optimisation.

They are made while loading, or stored by the package hqq through older releases of transformers.

The method is that of the package hqq (Badri and Shaji: Half-Quadratic Quantization of Large Machine
Learning Models, 2023), which also names the constants. It needs no data. The package itself is not
needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.quantization.base import Int8ActivationsConfig, StoredFormat, StoredTensorNames
from runner_engine.quantization.grouped import GroupedConfig, GroupSettings
from runner_engine.quantization.load_time_groups import CodedGroups, LoadTimeGroupsConfig

if TYPE_CHECKING:
    import torch

ROUNDS = 20  # at most: the first that does not lessen the mean error is the last
NORM = 0.7  # of the error that is minimised: below 1, so that outliers count less
BETA = 10.0
BITS_OF_ROUNDED_START = 4  # zero points are whole numbers at first, as the package has it for these bits only
STORED_BITS = (2, 3, 4, 5, 6, 8)
SMALLEST_RANGE, LARGEST_INVERSE = 1e-4, 2e4  # of a group: keeps its scale within 16 bits


@dataclass
class HqqConfig(Int8ActivationsConfig, LoadTimeGroupsConfig):
    """HQQ with groups along the inputs, and scales and zero points in model.dtype."""

    name: ClassVar[str] = "hqq"
    method: ClassVar[str] = "hqq"
    # of the matrices in float32 that the optimisation needs at once
    load_bytes_per_number: ClassVar[int] = 24

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
        """Parse the bits and group size of a checkpoint by the package hqq. The result may state
        that it is unsupported.
        """
        return StoredHqqConfig.parse_stored_format(stored_config)

    def quantize_weight(self, weight: torch.Tensor) -> CodedGroups:
        """Quantize a weight as hqq's default solver does, with groups along the inputs."""
        import torch

        outputs, top = weight.shape[0], 2**self.bits - 1
        with torch.no_grad():
            plain = weight.float().reshape(-1, self.group_size)
            low, high = plain.amin(1, keepdim=True), plain.amax(1, keepdim=True)
            inverse = torch.where(high - low <= SMALLEST_RANGE, 1.0, top / (high - low)).clamp(
                max=LARGEST_INVERSE
            )
            zeros = -low * inverse
            if self.bits == BITS_OF_ROUNDED_START:
                zeros.round_()
            least = float("inf")
            for _ in range(ROUNDS):
                codes = (plain * inverse).add_(zeros).round_().clamp_(0, top)
                error = plain - (codes - zeros).div_(inverse)
                size = float(error.abs().mean())
                shrunk = error.abs()
                shrunk.sub_(shrunk.pow(NORM - 1).mul_(1 / BETA)).clamp_min_(0).mul_(error.sign_())
                zeros = codes.sub_((plain - shrunk).mul_(inverse)).mean(1, keepdim=True)
                if not size < least:
                    break
                least = size
            codes = (plain * inverse).add_(zeros).round_().clamp_(0, top)
            numbers = (one.reshape(outputs, -1).to(weight.dtype) for one in (1 / inverse, zeros))
            return CodedGroups(codes.to(torch.uint8).reshape(weight.shape), *numbers)


@dataclass
class StoredHqqConfig(Int8ActivationsConfig, GroupedConfig):
    """A checkpoint quantized by HQQ with groups along the inputs."""

    name: ClassVar[str] = "hqq"
    method: ClassVar[str] = "hqq"
    tensors: ClassVar[StoredTensorNames] = StoredTensorNames((".W_q",))

    bits: int = 4
    group_size: int = 64

    @classmethod
    def parse_stored_format(cls, stored_config: dict[str, Any]) -> StoredFormat | None:
        found = super().parse_stored_format(stored_config)
        if found is None or found.refusal:
            return found
        first = _read_hqq_weight_settings(stored_config)[0]
        own = cls(bits=found.bits, group_size=first.get("group_size") or -1)
        return StoredFormat(cls.method, own, found.bits, cls.name)

    @classmethod
    def parse_group_settings(cls, stored_config: dict[str, Any]) -> GroupSettings:
        """Return the layer settings. The group size is left open, because tensor shapes determine it."""
        return GroupSettings(
            "hqq", tuple(settings["nbits"] for settings in _read_hqq_weight_settings(stored_config)), -1
        )

    @classmethod
    def find_unsupported_variant(cls, stored_config: dict[str, Any]) -> Note | None:
        """Return a note if bits, group size, axis or storage of the codes are unsupported, otherwise None."""
        for settings in _read_hqq_weight_settings(stored_config):
            if type(bits := settings.get("nbits")) is not int or bits not in STORED_BITS:
                known = ", ".join(map(str, STORED_BITS))
                return note("setting_not_read", key="nbits", value=bits, known=known)
            group = settings.get("group_size")
            if group is not None and (type(group) is not int or group < 1):
                return note("bad_group_size", value=group)
            if settings.get("axis") != 1:
                return note("other_axis", value=settings.get("axis"))
            if settings.get("view_as_float") or settings.get("channel_wise") is False:
                return note("codes_as_floats")
        return None


def _read_hqq_weight_settings(stored_config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the weight settings in a config.json, with one entry for all layers or one per layer type."""
    config = stored_config.get("quant_config")
    several = [config] if isinstance(config, dict) and "weight_quant_params" in config else config
    if isinstance(several, dict):
        several = [one for one in several.values() if one is not None]
    listed = [one.get("weight_quant_params") if isinstance(one, dict) else None for one in several or []]
    weights = [one for one in listed if isinstance(one, dict)]
    if not weights or len(weights) < len(listed):
        raise ConfigError(
            "quantization_config.quant_config needs `weight_quant_params`", key="config.json", code="damaged"
        )
    return weights
