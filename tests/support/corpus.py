"""Makes hostile files: each function puts one into a folder where a command of the runner reads
it."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

MARK = "it-ran"  # the folder that any code in the corpus would make
DEEP = b"[" * 200_000
PACKED_MIB = 320  # the unpacked size of a compressed entry
JSONS: dict[str, bytes] = {
    "null": b"null",
    "list": b"[1]",
    "deep": DEEP,
    "deep object": b'{"a":' * 100_000,
    "no utf-8": b'{"model_type": "\xff\xfe"}',
    "empty": b"",
    "binary": bytes(range(256)),
    "twice": b'{"model_type": "llama", "model_type": "gpt2"}',
    "digits": b'{"vocab_size": ' + b"9" * 5000 + b"}",
}
LINES: dict[str, bytes] = {
    "no utf-8": b'{"question": "\xff", "answer": "#### 1", "prompt": "\xff"}',
    "surrogate": b'{"question": "\\ud800", "answer": "#### 1"}'.replace(b"}", b', "prompt": "\\ud800"}'),
    "deep": DEEP,
    "null": b"null",
    "number": b"7",
    "wrong types": b'{"question": {}, "answer": [], "prompt": 5}',
    "wrong messages": b'{"messages": {"role": "user"}, "question": 1}',
    "half": b'{"question": "a',
    "nul": bytes(100),
    "utf-16": '{"question": "a", "answer": "#### 1", "prompt": "a"}'.encode("utf-16"),
}


class Evil:
    """If it is unpickled without protection, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def pack(file: Path, entry: str) -> None:
    """Write an archive like torch, with one entry of compressed zeros."""
    file.write_bytes(_packed(entry))


@cache
def _packed(entry: str) -> bytes:
    archive, original = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.arange(4.0)}, original)
    with zipfile.ZipFile(original) as old:
        entries = [(one.filename, old.read(one)) for one in old.infolist()]
    with zipfile.ZipFile(archive, "w") as new:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            if name.endswith(entry):
                info.compress_type = zipfile.ZIP_DEFLATED
                with new.open(info, "w") as stream:
                    for _ in range(PACKED_MIB):
                        stream.write(bytes(2**20))
            else:
                new.writestr(info, content)
    return archive.getvalue()


def _longer_than_it_is(file: Path) -> None:
    """Write a storage that claims to be larger than its entry."""
    torch.save({"w": torch.zeros(4)}, file)
    with zipfile.ZipFile(file) as old:
        entries = [(one.filename, old.read(one)) for one in old.infolist()]
    with zipfile.ZipFile(file, "w") as new:
        for name, data in entries:
            new.writestr(name, data[:4] if "/data/0" in name else data)


PICKLES: dict[str, Callable[[Path, Path], object]] = {
    "code": lambda file, mark: torch.save({"w": Evil(mark)}, file),
    "code in an old file": lambda file, mark: torch.save(
        {"w": Evil(mark)}, file, _use_new_zipfile_serialization=False
    ),
    "code, plain": lambda file, mark: file.write_bytes(pickle.dumps(Evil(mark))),
    "packed tensor": lambda file, _: pack(file, "/data/0"),
    "packed pickle": lambda file, _: pack(file, "/data.pkl"),
    "too short": lambda file, _: _longer_than_it_is(file),
    "huge view": lambda file, _: torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, file),
    "list": lambda file, _: torch.save([torch.ones(2)], file),
    "torn": lambda file, _: file.write_bytes(b"PK\x03\x04" + bytes(200)),
    "empty": lambda file, _: file.write_bytes(b""),
    "lfs": lambda file, _: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1"),
}


def safetensors(header: object, length: int | None = None, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "endless header": safetensors({}, 2**63),
    "header of gigabytes": safetensors({}, 99_000_000),
    "deep": safetensors(DEEP),
    "null": safetensors(None),
    "beyond the end": safetensors(tensor(shape=(10**12,), offsets=(0, 4 * 10**12))),
    "negative": safetensors(tensor(offsets=(-4, 0)), data=bytes(4)),
    "overlap": safetensors(tensor() | {"v": tensor()["w"]}, data=bytes(4)),
    "strange dtype": safetensors(tensor(dtype="F3"), data=bytes(4)),
    "dtype is a list": safetensors(tensor(dtype=["F32"]), data=bytes(4)),
    "shape is a text": safetensors(tensor(shape="1"), data=bytes(4)),
    "no utf-8": safetensors(b'{"\xff": 1}'),
}


def gguf(*pieces: bytes, tensors: int = 0, pairs: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + b"".join(pieces)


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


ARCHITECTURE = pair(b"general.architecture", 8, struct.pack("<Q", 5) + b"llama")
GGUF: dict[str, bytes] = {
    "torn": b"GGUF",
    "endless text": gguf(pair(b"general.name", 8, struct.pack("<Q", 2**62))),
    "endless array": gguf(pair(b"a", 9, struct.pack("<IQ", 4, 2**62))),
    "endless tensors": gguf(ARCHITECTURE, tensors=2**40),
    "endless pairs": gguf(pairs=2**60),
    "arrays in arrays": gguf(pair(b"a", 9, struct.pack("<IQ", 9, 1) * 100_000)),
    "no alignment": gguf(ARCHITECTURE, pair(b"general.alignment", 4, struct.pack("<I", 0)), pairs=2),
    "alignment is text": gguf(
        ARCHITECTURE, pair(b"general.alignment", 8, struct.pack("<Q", 2) + b"xx"), pairs=2
    ),
    "architecture is a number": gguf(pair(b"general.architecture", 4, struct.pack("<I", 7))),
    "no utf-8": gguf(pair(b"\xff\xff", 4, struct.pack("<I", 7))),
    "layers are a text": gguf(
        ARCHITECTURE, pair(b"llama.block_count", 8, struct.pack("<Q", 1) + b"x"), pairs=2
    ),
}


def put_parquet(file: Path, table: pa.Table) -> None:
    parquet.write_table(table, file)


PARQUETS: dict[str, Callable[[Path], object]] = {
    "torn": lambda file: file.write_bytes(b"PAR1" + bytes(50)),
    "not one": lambda file: file.write_bytes(b"hello"),
    "no columns": lambda file: put_parquet(file, pa.table({"x": [1]})),
    "numbers": lambda file: put_parquet(file, pa.table({"question": [1], "answer": [2]})),
    "nothing": lambda file: put_parquet(file, pa.table({"question": [None], "answer": [None]})),
    "lists": lambda file: put_parquet(file, pa.table({"question": [["a"]], "answer": [["#### 1"]]})),
    "bytes": lambda file: put_parquet(file, pa.table({"question": [b"\xff"], "answer": [b"\xff"]})),
}

CHAT_TEMPLATES: dict[str, str] = {
    "code": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "import": "{{ cycler.__init__.__globals__.os.mkdir('" + MARK + "') }}",
    "syntax": "{% for m in messages %}",
    "raises": "{{ raise_exception('no') }}",
    "include": "{% include '/etc/passwd' %}",
    "undefined": "{{ messages[0].a.b.c }}",
    "endless text": "{{ 'a' * 10**17 }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "endless range": "{% for i in range(1000000000000) %}x{% endfor %}",
    "long loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
}


def copy_model(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder / "model")
    return folder / "model"


def put_adapter(folder: Path, **settings: Any) -> Path:
    """Write a small valid PEFT adapter for the embedded model."""
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, **settings})
    )
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file(
        {name.format("A"): torch.ones(1, 4), name.format("B"): torch.ones(4, 1)},
        adapter / "adapter_model.safetensors",
    )
    return adapter


def many(corpus_of: dict[str, Any]) -> pytest.MarkDecorator:
    """Run a test once for each of these files."""
    return pytest.mark.parametrize("case", corpus_of)
