"""A split whose parts are merged, verified, packed or damaged, all through the tasks' own
functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tasking import work

from runner.config.root import RunnerConfig
from runner.options.parts.keys import ArchiveConfig, ArchiveFormat, MergeConfig, SplitConfig, VerifyConfig
from runner.options.parts.tasks import archive, merge, split, verify
from runner.records.jobs import Job, Recorder
from runner_base.result import Result
from runner_engine.checkpoints import file_io
from runner_engine.checkpoints.weight_files import read_weight_file_header
from runner_engine.settings.model import LocalModelConfig


@dataclass
class Trip:
    """One split and the later steps, in a folder of its own."""

    folder: Path
    make_config: Callable[..., RunnerConfig]

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    @property
    def merged(self) -> Path:
        return self.folder / "merged"

    @property
    def packed(self) -> Path:
        return self.folder / "packed"

    def split(self, source: Path, num_parts: int | None = 2, **keys: Any) -> Result:
        task = SplitConfig(num_parts=num_parts, output_dir=str(self.parts), **keys)
        return self._run(split, task, model=LocalModelConfig(name=str(source)))

    def merge(self, parts: Path | None = None, into: Path | None = None, **keys: Any) -> Result:
        return self._run(
            merge, MergeConfig(parts=str(parts or self.parts), output_dir=str(into or self.merged), **keys)
        )

    def verify(self, parts: Path | None = None, source: Path | str | None = None, **keys: Any) -> Result:
        named = None if source is None else str(source)
        return self._run(verify, VerifyConfig(parts=str(parts or self.parts), source=named, **keys))

    def pack(self) -> Result:
        return self._run(archive, ArchiveConfig(parts=str(self.parts), output_dir=str(self.packed)))

    def unpack(self, into: Path) -> Result:
        task = ArchiveConfig(parts=str(self.packed), output_dir=str(into), archive=ArchiveFormat.none)
        return self._run(archive, task)

    def _run(self, task: Any, config: Any, **groups: Any) -> Result:
        whole = self.make_config(task=config, **groups)
        (self.folder / "job").mkdir(exist_ok=True)
        return work(task, whole, Recorder(Job("parts-test", self.folder / "job")))

    def edit(self, change: Callable[[dict[str, Any]], object], name: str = "manifest.json") -> None:
        """Change a JSON file of the parts."""
        path = self.parts / name
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    def forge(self, part_id: int, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        """Change the tensors of a part, and adapt its partition and its line of the manifest."""
        path, partition = (
            self.parts / f"part_{part_id}.safetensors",
            self.parts / f"partition_{part_id}.json",
        )
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        part_tensors = read_weight_file_header(path).tensors
        values = json.loads(partition.read_text())
        kinds = {layer["name"]: layer["layer_type"] for layer in values["layers"]}
        values["layers"] = [
            {
                "name": one.name,
                "layer_type": kinds.get(one.name, "other"),
                "dtype": one.dtype,
                "shape": list(one.shape),
                "parameters": {
                    "file": path.name,
                    "tensor": one.name,
                    "dtype": one.dtype,
                    "offset": one.offset,
                    "nbytes": one.nbytes,
                    "digest": file_io.hash_pieces(file_io.read_tensor_pieces(one), "xxh3_128"),
                },
            }
            for one in part_tensors
        ]
        values["total_params"] = sum(one.num_elements for one in part_tensors)
        partition.write_text(json.dumps(values))

        def listed(manifest: dict[str, Any]) -> None:
            manifest["parts"][part_id] |= {
                "bytes": path.stat().st_size,
                "digest": file_io.hash_file(path, "xxh3_128"),
                "partition_sha256": hashlib.sha256(partition.read_bytes()).hexdigest(),
                "tensors": len(part_tensors),
                "params": values["total_params"],
            }

        self.edit(listed)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
