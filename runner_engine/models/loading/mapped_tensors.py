"""Reads checkpoint tensors from memory-mapped files, and releases the mapped pages after use."""

from __future__ import annotations

import mmap
import warnings
from pathlib import Path

import torch

from runner_base import DataError
from runner_engine.checkpoints.weight_files import TensorLocation

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


class MappedTensors:
    """Reads tensors from memory-mapped files, whose pages can be released afterwards."""

    def __init__(self) -> None:
        self._files: dict[Path, mmap.mmap] = {}

    def read_tensor(self, tensor: TensorLocation) -> torch.Tensor:
        """Return a floating-point tensor as a view of the mapped file."""
        if tensor.dtype not in DTYPES:
            raise DataError(
                f"tensor {tensor.name} has dtype {tensor.dtype}, but must have a floating-point dtype",
                key=tensor.file,
                code="unsupported",
            )
        dtype = DTYPES[tensor.dtype]
        mapped = self._map_file(tensor.file)
        if tensor.offset % dtype.itemsize:  # a header of odd length
            held = torch.frombuffer(
                bytearray(mapped[tensor.offset : tensor.offset + tensor.nbytes]), dtype=dtype
            )
        else:
            with warnings.catch_warnings():
                # nobody writes there
                warnings.filterwarnings("ignore", message="The given buffer is not writable")
                held = torch.frombuffer(mapped, dtype=dtype, count=tensor.num_elements, offset=tensor.offset)
        return held.view(tensor.shape)

    def release_pages(self) -> None:
        """Release the memory pages of the mapped files. Later reads load the pages from disk again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._files.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    def _map_file(self, path: Path) -> mmap.mmap:
        if path not in self._files:
            with path.open("rb") as file:
                self._files[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._files[path]
