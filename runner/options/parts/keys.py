"""task – the keys of the tasks that split a checkpoint, and merge, check or compress its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from runner.config.task import TaskConfig, absolute
from runner_base import HASHED, MISSING, Dtype, Inert, check, filled, least, setting


class Strategy(StrEnum):
    """How layers are assigned to parts; all strategies but by_type keep them contiguous."""

    equal_layers = "equal_layers"
    balanced_params = "balanced_params"
    balanced_bytes = "balanced_bytes"
    ratios = "ratios"
    ranges = "ranges"
    by_type = "by_type"


class Checksums(StrEnum):
    """The hash of every tensor and part: xxh3_128 finds damage, sha256 also forgery, more
    slowly."""

    xxh3_128 = "xxh3_128"
    sha256 = "sha256"


class Compare(StrEnum):
    """How unchanged parts are found: by the state of their files (size, times, headers), or by
    reading them."""

    state = "state"
    content = "content"


class Explain(StrEnum):
    """Instead of splitting, print the command line of another program for the same plan."""

    vllm = "vllm"


@dataclass
class SplitConfig(TaskConfig):
    """Cut a checkpoint into N parts by layer."""

    module: ClassVar[str] = "runner.options.parts.tasks.split"
    name: ClassVar[str] = "split"
    keeps_samples: ClassVar[bool] = False
    num_parts: int | None = setting(None, takes=least(1, ", or null"))
    strategy: Strategy = Strategy.balanced_bytes
    ratios: list[float] | None = None
    ranges: list[str] | None = None
    output_dir: str | None = setting(None, takes=filled("give a folder, or null"))
    checksums: Checksums = Checksums.xxh3_128
    compare: Compare = setting(
        Compare.state, Inert("decides which parts are written anew, and changes nothing in them")
    )
    durable: bool = setting(
        False, Inert("decides whether to wait for the disk, and changes nothing in the files")
    )
    inline_parameters: bool = False
    explain: Explain | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        count = self.num_parts
        self.output_dir = None if self.output_dir is None else absolute(self.output_dir)
        for strategy in (Strategy.ratios, Strategy.ranges):
            given = getattr(self, strategy.value)
            key = f"task.{strategy.value}"
            if self.strategy is not strategy:
                need = f"task.strategy={self.strategy.value} does not read it: use task.strategy={strategy.value}"
                check(given is None, key, given, f"{need}, or leave it out", code="no_effect")
                continue
            example = "[0.3,0.7]" if strategy is Strategy.ratios else "[0-7,8-15]"
            check(
                bool(given),
                key,
                given,
                f"task.strategy={strategy.value} needs it, e.g. {key}={example}",
                code="missing",
            )
            need = f"{key} has {len(given)} entries: leave task.num_parts out, or give the same number"
            check(count in (None, len(given)), "task.num_parts", count, need, code="mismatch")
        if self.strategy is Strategy.by_type:
            check(
                count is None,
                "task.num_parts",
                count,
                "task.strategy=by_type makes one part per kind: leave it out",
                code="conflict",
            )
            need = "a pipeline needs whole layers in each part: use another task.strategy than by_type"
            check(self.explain is None, "task.explain", self.explain, need, code="conflict")
        if self.ratios is not None:
            check(
                all(0 < ratio <= 1 for ratio in self.ratios),
                "task.ratios",
                self.ratios,
                "each must lie in (0, 1]",
            )
            total = sum(self.ratios)
            check(
                abs(total - 1) <= 1e-6,
                "task.ratios",
                self.ratios,
                f"they must add up to 1, not to {total:.6g}",
            )
        for given in self.ranges or []:
            need = "give first-last, both included, or one number: task.ranges=[0-7,8-15]"
            check(re.fullmatch(r"[0-9]+(-[0-9]+)?", given) is not None, "task.ranges", given, need)


@dataclass
class RewritePartsConfig(TaskConfig):
    """Shared keys of the tasks that write what is in the parts of a split into another folder."""

    keeps_samples: ClassVar[bool] = False
    parts: str = setting(MISSING, HASHED)
    output_dir: str = setting(MISSING, takes=filled("give a folder"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.output_dir = absolute(self.output_dir)


@dataclass
class MergeConfig(RewritePartsConfig):
    """Put the parts of a split back together, bit for bit. Only old JSON parts need `dtype`: they
    do not record one."""

    module: ClassVar[str] = "runner.options.parts.tasks.merge"
    name: ClassVar[str] = "merge"
    dtype: Dtype = Dtype.float32


class VerifyLevel(StrEnum):
    """The depth of a check: sizes, headers and JSON only, or every byte against the digests."""

    quick = "quick"
    full = "full"


@dataclass
class VerifyConfig(TaskConfig):
    """Check every part against the manifest, and against the source if one is given."""

    module: ClassVar[str] = "runner.options.parts.tasks.verify"
    name: ClassVar[str] = "verify"
    keeps_samples: ClassVar[bool] = False
    parts: str = setting(MISSING, HASHED)
    source: str | None = setting(None, takes=filled("give the folder or hub id that was split, or null"))
    level: VerifyLevel = VerifyLevel.full


class Archive(StrEnum):
    """The form of the parts in their folder: compressed, or ready to load."""

    zstd = "zstd"
    none = "none"


@dataclass
class ArchiveConfig(RewritePartsConfig):
    """Compress the parts of a split for storage, or unpack them for use."""

    module: ClassVar[str] = "runner.options.parts.tasks.archive"
    name: ClassVar[str] = "archive"
    archive: Archive = Archive.zstd
