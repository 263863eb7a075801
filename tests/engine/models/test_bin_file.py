"""Legacy .bin files: every tensor is found where it is, and a file with code is rejected without
running it."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from raising import raises

from runner_base.errors import Code, DataError
from runner_engine.checkpoints import file_io
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.models import bin_file, pickle_reading


def tensors() -> dict[str, torch.Tensor]:
    """All forms of storages: many dtypes, views, transposed, expanded, shared, empty, without
    dimensions."""
    torch.manual_seed(0)
    base = torch.randn(6, 10)
    kinds = [*(getattr(torch, name) for name in bin_file.DTYPES)]
    by_dtype = {f"kind.{kind}".replace("torch.", ""): (torch.rand(3, 4) * 100).to(kind) for kind in kinds}
    return by_dtype | {
        "base": base,
        "same": base,
        "row": base[2],
        "column": base[:, 3],
        "block": base[1:4, 2:7],
        "transposed": base.t(),
        "turned": torch.randn(1, 40, 50).transpose(1, 2),
        "expanded": torch.randn(3, 1).expand(3, 5),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def copied(tensor: TensorLocation) -> bytes:
    return b"".join(bytes(piece) for piece in file_io.read_tensor_pieces(tensor))


def test_every_tensor_is_found_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # so that small tensors come in several pieces, too
    monkeypatch.setattr(file_io, "CHUNK_BYTES", 256)
    written = tensors()
    torch.save(written, tmp_path / "x.bin")
    file = bin_file.read_bin_tensor_locations(tmp_path / "x.bin")
    assert (file.header, file.metadata, file.size) == (b"", {}, (tmp_path / "x.bin").stat().st_size)
    found = {tensor.name: tensor for tensor in file.tensors}
    assert set(found) == set(written)
    for name, tensor in written.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].dtype == bin_file.DTYPES[str(tensor.dtype).removeprefix("torch.")]
        assert found[name].nbytes == tensor.numel() * tensor.element_size()
        assert (found[name].strides is None) == tensor.is_contiguous(), name
        assert copied(found[name]) == as_bytes(tensor), name


def test_torch_says_where_a_storage_lies() -> None:
    """It needs one private attribute of torch."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(5), "b": torch.arange(7.0)}, buffer)
    buffer.seek(0)
    for name, tensor in torch.load(buffer, map_location="meta", weights_only=True).items():
        begin = tensor.untyped_storage()._checkpoint_offset
        content = buffer.getvalue()[begin : begin + tensor.nbytes]
        assert content == {"a": torch.arange(5), "b": torch.arange(7.0)}[name].numpy().tobytes()


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["zip", "plain pickle", "old torch"])
def test_code_is_refused_by_name_and_has_not_run(tmp_path: Path, form: str) -> None:
    file, mark = tmp_path / "pytorch_model.bin", tmp_path / "it-ran"
    if form == "plain pickle":
        file.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save({"w": Evil(mark)}, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(DataError) as refused:
        bin_file.read_bin_tensor_locations(file)
    message = str(refused.value)
    if form == "old torch":  # its content is not even read
        assert "has the format of torch before 1.6" in message
    else:
        assert "contains code (posix.mkdir) and was rejected. The code was not run" in message
    assert "weights_only=False" not in message
    assert "weights_only" not in message or "weights_only=True" in message
    assert not mark.exists()


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])


def cut_in_the_middle(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("damage", [truncated, cut_in_the_middle])
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: Any) -> None:
    torch.save(tensors(), tmp_path / "x.bin")
    damage(tmp_path / "x.bin")
    with raises(DataError, "damaged", tmp_path / "x.bin"):
        bin_file.read_bin_tensor_locations(tmp_path / "x.bin")


def rewritten(file: Path, change: Any) -> Path:
    """Write the same archive again, entry by entry; change gets (name, content) and returns
    content, compression."""
    with zipfile.ZipFile(file) as old:
        entries = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(file, "w") as new:
        for name, content in entries:
            content, compression = change(name, content)
            new.writestr(zipfile.ZipInfo(name), content, compression)
    return file


def test_an_archive_that_lies_about_its_storages_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"

    def shorter(name: str, content: bytes) -> Any:
        return (content[:-8] if "/data/" in name else content), zipfile.ZIP_STORED

    def packed(name: str, content: bytes) -> Any:
        return content, zipfile.ZIP_DEFLATED if "/data/" in name else zipfile.ZIP_STORED

    def turned(name: str, content: bytes) -> Any:
        return (b"big" if name.endswith("byteorder") else content), zipfile.ZIP_STORED

    cases: list[tuple[Any, Code]] = [(shorter, "damaged"), (packed, "refused"), (turned, "unsupported")]
    for change, code in cases:
        torch.save({"w": torch.arange(100.0)}, file)
        with raises(DataError, code, file):
            bin_file.read_bin_tensor_locations(rewritten(file, change))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "must contain a dictionary of tensors, but contains a list"),
        ({"step": 3}, "step must be a tensor, but is a int"),
        ({"net": {"w": torch.ones(2)}}, "net must be a tensor, but is a dict. If it contains the weights"),
        (
            {"model": {"w": torch.ones(2)}, "module": {"w": torch.ones(2)}},
            "has tensors under several keys, module and model",
        ),
        ({3: torch.ones(2)}, "3 must be a tensor, but is a Tensor"),
        (
            {"w": torch.ones(2, dtype=torch.complex128)},
            "tensor w: safetensors does not support the type torch.complex128",
        ),
        (
            {"w": torch.eye(3).to_sparse()},
            "safetensors does not support the type .*torch.sparse_coo|torch cannot read the file",
        ),
    ],
)
def test_what_is_no_plain_tensor_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(DataError, match=message):
        bin_file.read_bin_tensor_locations(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "damaged"),
        (b"nonsense", "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "missing"),
        (b"PK\x03\x04 and then nothing", "damaged"),
    ],
)
def test_what_is_no_bin_is_refused(tmp_path: Path, content: bytes, code: Code) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(DataError) as raised:
        bin_file.read_bin_tensor_locations(tmp_path / "x.bin")
    assert raised.value.code == code
    assert str(tmp_path / "x.bin") in str(raised.value)
    with raises(DataError, "unreadable"):
        bin_file.read_bin_tensor_locations(tmp_path / "gone.bin")


def test_the_old_format_says_what_it_costs(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2**18)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with raises(DataError, "unsupported", tmp_path / "x.bin"):
        bin_file.read_bin_tensor_locations(tmp_path / "x.bin")


@pytest.mark.parametrize(
    "way", [["model_state_dict"], ["state_dict"], ["module"], ["model"], ["module", "state_dict"]]
)
def test_a_wrapped_state_dict_is_opened_and_said(tmp_path: Path, way: list[str]) -> None:
    content: Any = {"w": torch.arange(4.0)}
    for key in reversed(way):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}
    torch.save(content, tmp_path / "x.bin")
    file = bin_file.read_bin_tensor_locations(tmp_path / "x.bin")
    (tensor,) = file.tensors
    assert (tensor.name, copied(tensor)) == ("w", as_bytes(torch.arange(4.0)))
    (under,) = file.notes
    assert (under.code, under.values["keys"]) == ("tensors_under", ".".join(way))
    assert set(under.values["left_out"]) == {"epoch", "optimizer"}


def bomb(file: Path, entry: str, size: int = 256 * 2**20) -> Path:
    """Compress an entry of many zeros into an archive that is otherwise as torch writes it."""
    torch.save({"w": torch.arange(4.0)}, file)
    with zipfile.ZipFile(file) as old:
        entries = [(one.filename, old.read(one)) for one in old.infolist()]
    with zipfile.ZipFile(file, "w") as new:
        for name, content in entries:
            if not name.endswith(entry):
                new.writestr(name, content)
                continue
            with new.open(deflated(name), "w", force_zip64=True) as stream:
                for _ in range(size // 2**20):
                    stream.write(bytes(2**20))
    return file


def deflated(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


@pytest.mark.sampled(1)
@pytest.mark.parametrize("entry", ["/data/0", "/data.pkl", "/byteorder"])
def test_a_small_file_with_a_huge_entry_takes_no_memory(tmp_path: Path, entry: str) -> None:
    file = bomb(tmp_path / "x.bin", entry)
    assert file.stat().st_size < 2 * 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with raises(DataError, "refused", file):
        bin_file.read_bin_tensor_locations(file)
    with raises(DataError, "refused", "lora.path=x.pth"):
        pickle_reading.load_pickled_tensors(file, "lora.path=x.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
