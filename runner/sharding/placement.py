"""Which process of a pipeline runs which parts. Imports no torch."""

from __future__ import annotations

from runner.core.errors import ConfigError
from runner.sharding.manifest import Manifest
from runner.sharding.strategies import balance


def part_cuts(manifest: Manifest, processes: int) -> list[int]:
    """Return the first part of each process, and the number of parts; the largest process is as small as can be."""
    if processes > manifest.num_parts:
        raise ConfigError(
            f"task.processes={processes}: each process runs a part or more, and {manifest.folder} has "
            f"{manifest.num_parts}: use at most {manifest.num_parts}, or split into more"
        )
    return balance([part.raw.nbytes for part in manifest.parts], processes)


def parts_of(manifest: Manifest, processes: int, rank: int) -> str:
    """Name the parts and layers of a process, for messages."""
    first, end = part_cuts(manifest, processes)[rank : rank + 2]
    spans = [part.layers for part in manifest.parts[first:end] if part.layers is not None]
    which = f"part {first}" if end == first + 1 else f"parts {first}-{end - 1}"
    return f"{which}, layers {spans[0][0]}-{spans[-1][1]}"
