"""Config keys of task=split, merge, verify and archive, which cut a checkpoint into parts and process the
parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from runner.config.task import TaskConfig, to_absolute_path
from runner_base import HASHED, MISSING, Dtype, NotInIdentity, at_least, check_value, config_field, not_blank


class SplitStrategy(StrEnum):
    """How layers are assigned to parts. With all strategies except by_type, a part's layers are
    consecutive.
    """

    equal_layers = "equal_layers"
    balanced_params = "balanced_params"
    balanced_bytes = "balanced_bytes"
    ratios = "ratios"
    ranges = "ranges"
    by_type = "by_type"


class ChecksumAlgorithm(StrEnum):
    """Hash function for tensors and parts. xxh3_128 detects damage. sha256 is slower, but also detects
    forgery.
    """

    xxh3_128 = "xxh3_128"
    sha256 = "sha256"


class CompareMode(StrEnum):
    """How task=split detects unchanged parts: by file state (size, times, headers) or by content."""

    state = "state"
    content = "content"


class ExplainTarget(StrEnum):
    """Program for which task=split prints an equivalent command line, without splitting the checkpoint."""

    vllm = "vllm"


@dataclass
class SplitConfig(TaskConfig):
    """Config of task=split, which splits a checkpoint into N parts by layer."""

    module: ClassVar[str] = "runner.options.parts.tasks.split"
    name: ClassVar[str] = "split"
    keeps_samples: ClassVar[bool] = False
    num_parts: int | None = config_field(None, constraint=at_least(1, ", or null"))
    strategy: SplitStrategy = SplitStrategy.balanced_bytes
    ratios: list[float] | None = None
    ranges: list[str] | None = None
    output_dir: str | None = config_field(None, constraint=not_blank("give a folder, or null"))
    checksums: ChecksumAlgorithm = ChecksumAlgorithm.xxh3_128
    compare: CompareMode = config_field(
        CompareMode.state, NotInIdentity("task.compare does not change the content of the parts")
    )
    durable: bool = config_field(
        False, NotInIdentity("task.durable does not change the content of the parts")
    )
    inline_parameters: bool = False
    explain: ExplainTarget | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        count = self.num_parts
        self.output_dir = None if self.output_dir is None else to_absolute_path(self.output_dir)
        for strategy in (SplitStrategy.ratios, SplitStrategy.ranges):
            given = getattr(self, strategy.value)
            key = f"task.{strategy.value}"
            if self.strategy is not strategy:
                need = (
                    f"this key applies only to task.strategy={strategy.value}, not to "
                    f"{self.strategy.value}. Use that strategy"
                )
                check_value(given is None, key, given, f"{need}, or leave it out", code="no_effect")
                continue
            example = "[0.3,0.7]" if strategy is SplitStrategy.ratios else "[0-7,8-15]"
            check_value(
                bool(given),
                key,
                given,
                f"task.strategy={strategy.value} needs it, e.g. {key}={example}",
                code="missing",
            )
            need = f"{key} lists {len(given)} parts. Use task.num_parts={len(given)}, or omit task.num_parts"
            check_value(count in (None, len(given)), "task.num_parts", count, need, code="mismatch")
        if self.strategy is SplitStrategy.by_type:
            check_value(
                count is None,
                "task.num_parts",
                count,
                "task.strategy=by_type makes one part per kind of layer. Omit task.num_parts",
                code="conflict",
            )
            need = (
                "task.strategy=by_type splits layers, but a pipeline needs whole layers. Use another strategy"
            )
            check_value(self.explain is None, "task.explain", self.explain, need, code="conflict")
        if self.ratios is not None:
            check_value(
                all(0 < ratio <= 1 for ratio in self.ratios),
                "task.ratios",
                self.ratios,
                "each ratio must be greater than 0 and at most 1",
            )
            total = sum(self.ratios)
            check_value(
                abs(total - 1) <= 1e-6,
                "task.ratios",
                self.ratios,
                f"the ratios add up to {total:.6g}, but must add up to 1",
            )
        for given in self.ranges or []:
            need = "give layer numbers or inclusive ranges FIRST-LAST, such as task.ranges=[0-7,8-15]"
            check_value(re.fullmatch(r"[0-9]+(-[0-9]+)?", given) is not None, "task.ranges", given, need)


@dataclass
class RewritePartsConfig(TaskConfig):
    """Config keys shared by the tasks that read a split checkpoint and write to another folder."""

    keeps_samples: ClassVar[bool] = False
    parts: str = config_field(MISSING, HASHED)
    output_dir: str = config_field(MISSING, constraint=not_blank("give a folder"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.output_dir = to_absolute_path(self.output_dir)


@dataclass
class MergeConfig(RewritePartsConfig):
    """Config of task=merge, which restores a checkpoint from its parts bit for bit.

    `dtype` applies only to parts in the old JSON format, which record no dtype.
    """

    module: ClassVar[str] = "runner.options.parts.tasks.merge"
    name: ClassVar[str] = "merge"
    dtype: Dtype = Dtype.float32


class VerifyLevel(StrEnum):
    """How thoroughly task=verify checks: `quick` reads only sizes, headers and JSON, `full` reads every
    byte.
    """

    quick = "quick"
    full = "full"


@dataclass
class VerifyConfig(TaskConfig):
    """Config of task=verify, which checks every part against the manifest, and against the source
    checkpoint if one is given.
    """

    module: ClassVar[str] = "runner.options.parts.tasks.verify"
    name: ClassVar[str] = "verify"
    keeps_samples: ClassVar[bool] = False
    parts: str = config_field(MISSING, HASHED)
    source: str | None = config_field(
        None, constraint=not_blank("give the folder or hub id of the source checkpoint, or null")
    )
    level: VerifyLevel = VerifyLevel.full


class ArchiveFormat(StrEnum):
    """Format of the parts that task=archive writes: compressed, or uncompressed and ready to load."""

    zstd = "zstd"
    none = "none"


@dataclass
class ArchiveConfig(RewritePartsConfig):
    """Config of task=archive, which compresses a split's parts for storage, or decompresses them for
    use.
    """

    module: ClassVar[str] = "runner.options.parts.tasks.archive"
    name: ClassVar[str] = "archive"
    archive: ArchiveFormat = ArchiveFormat.zstd
