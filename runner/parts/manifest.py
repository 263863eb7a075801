"""The folder of a split: how its files are called, and what its manifest says."""

from __future__ import annotations

FORMAT, FORMAT_VERSION = "runner-split", 2
MANIFEST = "manifest.json"
UNFINISHED = "manifest.unfinished.json"  # says whose split this is while there is no manifest yet
MODEL_FILES = "model_files"
SOURCE_HEADERS = "source_headers"


def part_file(part_id: int) -> str:
    """Name of a part's tensors."""
    return f"part_{part_id}.safetensors"


def partition_file(part_id: int) -> str:
    """Name of what describes a part."""
    return f"partition_{part_id}.json"
