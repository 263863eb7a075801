"""Finds the byte offsets of the tensors in a PyTorch .bin file, so that their bytes can be copied
without loading.

Such a file is a zip archive with a pickle, which describes the tensors, and one uncompressed entry
per storage. torch unpickles it with only tensors allowed (`weights_only`) and onto the meta device:
no weight is read, no code in the file runs, and each storage reports its byte offset in the file.
These offsets are checked against the archive's own directory.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runner_base import ConfigError, DataError, os_errors_as_data_error
from runner_base.notes import Note
from runner_engine.checkpoints import torch_archive
from runner_engine.checkpoints.file_io import get_file_nbytes
from runner_engine.checkpoints.weight_files import DTYPE_BITS, DTYPE_NAMES, TensorLocation, WeightFile

ZIP, LFS = b"PK\x03\x04", b"version https://git-lfs"
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first bytes of torch.save's files before 1.6
LOCAL_HEADER_BYTES = 30
DTYPES = DTYPE_NAMES | {
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}


class PreZipFormatError(DataError):
    """Raised for a .bin file written by torch before 1.6, for which torch does not report tensor offsets."""


def read_bin_tensor_locations(path: Path) -> WeightFile:
    """Read the names and byte offsets of the tensors in a .bin file.

    Raises DataError for files that contain code.
    """
    size = get_file_nbytes(path)
    state, storages, notes = _read_tensor_metadata(path, size)
    tensors = [_locate_tensor(path, name, value, storages) for name, value in state.items()]
    return WeightFile(
        path, size, b"", {}, sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)), notes
    )


def reject_unsafe_bin_files(paths: Iterable[Path]) -> None:
    """Raise an error for .bin files that contain code or nested dictionaries. transformers must not
    load them.
    """
    for path in paths:
        try:
            _, _, notes = _read_tensor_metadata(path, get_file_nbytes(path))
        except PreZipFormatError:
            reject_pickled_code(path, "")
            continue
        if notes:
            raise ConfigError(
                "transformers does not search nested dictionaries and would use random weights. "
                "Save only the inner dictionary, or convert the file with task=split and task=merge",
                key=f"{path}: the tensors are under {notes[0].values['keys']}",
                code="unsupported",
            )


def _read_tensor_metadata(
    path: Path, file_nbytes: int
) -> tuple[dict[Any, Any], dict[int, int], tuple[Note, ...]]:
    """Unpickle a .bin file onto the meta device. Returns the content, the byte offset of each
    storage, and notes.
    """
    import torch

    _require_zip_archive(path, file_nbytes)
    storages = _read_archive_entry_sizes(path, file_nbytes)
    state = _unpickle_to_meta_device(path)
    if not isinstance(state, dict):
        raise DataError(
            f"the file must contain a dictionary of tensors, but contains a {type(state).__name__}",
            key=path,
            code="damaged",
        )
    state, notes = torch_archive.unwrap_state_dict(
        state, str(path), lambda value: isinstance(value, torch.Tensor)
    )
    return state, storages, notes


def _require_zip_archive(path: Path, file_nbytes: int) -> None:
    """Raise DataError if a file is not a zip archive. The message names the file's format if it is known."""
    with os_errors_as_data_error(path), path.open("rb") as stream:
        start = stream.read(len(LFS))
    if start.startswith(ZIP):
        return
    if start.startswith(LFS):
        raise DataError(
            f"{path} is a Git LFS pointer and not the weights: fetch them with git lfs pull", code="missing"
        )
    reject_pickled_code(path, "")
    if start.startswith(OLD_FORMAT):
        raise PreZipFormatError(
            "this file has the format of torch before 1.6, which cannot be memory-mapped. Convert the file "
            f"once, which takes {file_nbytes / 2**20:,.0f} MiB of memory: "
            "torch.save(torch.load(OLD, weights_only=True), NEW)",
            key=path,
            code="unsupported",
        )
    raise DataError(
        f"{path} is not a .bin file of torch. The file is empty, truncated or in another format",
        code="damaged",
    )


def _read_archive_entry_sizes(path: Path, file_nbytes: int) -> dict[int, int]:
    """Return the size in bytes of each entry in a zip archive, by the entry's byte offset."""
    lengths: dict[int, int] = {}
    try:
        entries = torch_archive.list_archive_entries(path)
        with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
            for entry in entries:
                if entry.filename.endswith("/byteorder") and archive.read(entry) != b"little":
                    raise DataError(
                        "the file stores numbers in big-endian order, which is not supported",
                        key=path,
                        code="unsupported",
                    )
                stream.seek(entry.header_offset)
                header = stream.read(LOCAL_HEADER_BYTES)
                name_bytes, extra_bytes = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
                begin = entry.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
                if begin + entry.compress_size > file_nbytes:
                    end = begin + entry.compress_size
                    raise DataError(
                        f"the file is truncated: it has {file_nbytes} bytes, but "
                        f"{entry.filename} ends at byte {end}",
                        key=path,
                        code="damaged",
                    )
                lengths[begin] = entry.file_size
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError("the file is a truncated or damaged zip archive", key=path, code="damaged") from error
    return lengths


def _unpickle_to_meta_device(path: Path) -> Any:
    """Unpickle a .bin file onto torch's meta device. Meta storages record their byte offsets in the file."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns before it fails
            return torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # torch raises a different exception for each kind of damage
        reject_pickled_code(path, str(error))
        reason = (
            "" if isinstance(error, pickle.UnpicklingError) else f": {' '.join(str(error).split())[:160]}"
        )
        raise DataError(
            f"torch cannot read the file ({type(error).__name__}{reason})", key=path, code="damaged"
        ) from error


def reject_pickled_code(path: Path, message: str) -> None:
    """Raise DataError if unpickling a file would run code. torch's own error message would suggest
    running it.
    """
    import torch

    from runner_engine.models.pickle_reading import find_code_in_pickle

    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # noqa: BLE001  # not a zip archive, TorchScript, or damaged: the second check says more
        names = []
    if names := names or [code for code in [find_code_in_pickle(path, message)] if code]:
        raise DataError(
            f"{path} contains code ({', '.join(names[:5])}) and was rejected. The code was not run. "
            "Use a safetensors file, or a .bin file that contains only tensors",
            code="refused",
        ) from None


def _locate_tensor(path: Path, name: object, value: Any, storages: dict[int, int]) -> TensorLocation:
    """Return the location of a tensor in a .bin file. Raises DataError for unsupported or truncated
    tensors.
    """
    import torch

    if not isinstance(name, str) or not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        inside = ". If it contains the weights, save only this dictionary" if isinstance(value, dict) else ""
        raise DataError(f"{name} must be a tensor, but is a {kind}{inside}", key=path, code="damaged")
    dtype = DTYPES.get(str(value.dtype).removeprefix("torch."))
    if dtype is None or value.layout is not torch.strided or value.is_quantized:
        raise DataError(
            f"tensor {name}: safetensors does not support the type {value.dtype} ({value.layout})",
            key=path,
            code="unsupported",
        )
    size, shape = DTYPE_BITS[dtype] // 8, tuple(value.shape)
    nbytes = size * math.prod(shape)
    if nbytes == 0:
        return TensorLocation(name, dtype, shape, path, 0, 0)
    begin = getattr(value.untyped_storage(), "_checkpoint_offset", None)
    if begin is None:
        raise DataError(
            f"torch {torch.__version__} does not report the byte offset of tensor {name}",
            key=path,
            code="unsupported",
        )
    first = value.storage_offset() * size
    reach = size * (
        1 + sum((count - 1) * stride for count, stride in zip(shape, value.stride(), strict=True))
    )
    length = storages.get(begin, -1)
    if length < first + reach:
        actual = f"has only {length} bytes" if length >= 0 else "does not exist"
        raise DataError(
            f"tensor {name} needs {first + reach} bytes, but the archive entry at byte {begin} {actual}",
            key=path,
            code="damaged",
        )
    strides = None if value.is_contiguous() else tuple(value.stride())
    return TensorLocation(name, dtype, shape, path, begin + first, nbytes, strides)
