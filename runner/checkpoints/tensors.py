"""The tensors of a checkpoint or an adapter, listed from the headers of its files; no weights, no torch."""

from __future__ import annotations

import json
import pickletools
import zipfile
from pathlib import Path

from runner.checkpoints import gguf_file
from runner.checkpoints.weight_files import INDEX, SINGLE, Tensor, read_weight_file

PTH_STORAGES = {"HalfStorage": 2, "BFloat16Storage": 2, "FloatStorage": 4, "DoubleStorage": 8}


def read_tensors(folder: Path) -> list[Tensor]:
    """List the tensors of a checkpoint or an adapter from its safetensors headers, or of a .gguf file, unpacked."""
    if folder.is_file():
        return gguf_file.unpacked_tensors(gguf_file.read_header(folder))
    return [tensor for file in _weight_files(folder) for tensor in read_weight_file(file).tensors]


def count_pth_numbers(file: Path) -> int:
    """Count the numbers in a `.pth` file: the bytes of its storages over the size that their type names."""
    try:
        with zipfile.ZipFile(file) as archive:
            stored = sum(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename)
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            named = {str(argument) for name in pickles for _, argument, _ in pickletools.genops(archive.read(name))}
    except Exception:  # noqa: BLE001  # torch's format of before 2019, or a damaged file, which the load will name
        return file.stat().st_size // 2
    return stored // next((size for name, size in PTH_STORAGES.items() if f"torch {name}" in named), 2)


def _weight_files(folder: Path) -> list[Path]:
    """The files that from_pretrained would read, not every safetensors file that lies there."""
    index = folder / INDEX
    if index.exists():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    whole = [folder / SINGLE, folder / "adapter_model.safetensors"]
    return [file for file in whole if file.exists()][:1]
