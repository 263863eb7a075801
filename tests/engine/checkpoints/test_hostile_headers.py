"""Any header of a .gguf or .safetensors file is read, or refused with one message; never another
exception, and soon."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpus import ARCHITECTURE, gguf, pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raising import raises

from runner_base.errors import DataError
from runner_engine.checkpoints import gguf_file, resolved_model, weight_files

FILES = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
UINT32, INT32, FLOAT32, BOOL, TEXT, LIST, FLOAT64 = 4, 5, 6, 7, 8, 9, 12
NAN = float("nan")
DATA = bytes(4096)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def listed(kind: int, *values: bytes) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def tensor(name: str, *fastest_first: int, offset: int = 0, kind: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(fastest_first)}Q", len(fastest_first), *fastest_first)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def model(*pairs: bytes, tensors: tuple[bytes, ...] = ()) -> bytes:
    """A file of the architecture `llama`, with these keys and tensors, and zeros as weights."""
    return gguf(ARCHITECTURE, *pairs, *tensors, tensors=len(tensors), pairs=1 + len(pairs)) + DATA


def number(key: bytes, kind: int, packed: bytes) -> bytes:
    return model(pair(key, kind, packed), tensors=(tensor("w", 8),))


ALIGNMENT = b"general.alignment"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "alignment -1": (number(ALIGNMENT, INT32, struct.pack("<i", -1)), "general.alignment is -1. Expected a power of two"),
    "alignment 0": (number(ALIGNMENT, UINT32, struct.pack("<I", 0)), "general.alignment is 0. Expected a power of two"),
    "alignment 48": (number(ALIGNMENT, UINT32, struct.pack("<I", 48)), "general.alignment is 48. Expected a power of two"),
    "alignment 0.5": (number(ALIGNMENT, FLOAT32, struct.pack("<f", 0.5)), "general.alignment is 0.5. Expected a power of two"),
    "alignment NaN": (number(ALIGNMENT, FLOAT64, struct.pack("<d", NAN)), "general.alignment is nan. Expected a power of two"),
    "alignment true": (number(ALIGNMENT, BOOL, b"\1"), "general.alignment is True. Expected a power of two"),
    "alignment a text": (number(ALIGNMENT, TEXT, text("32")), "general.alignment is '32'. Expected a power of two"),
    "alignment a list": (number(ALIGNMENT, LIST, listed(UINT32, struct.pack("<I", 32))), r"general.alignment is \[32\]. Expected a power of two"),
    "layers NaN": (number(b"llama.block_count", FLOAT32, struct.pack("<f", NAN)), "llama.block_count is nan. Expected a whole number from 0"),
    "layers a text": (number(b"llama.block_count", TEXT, text("2")), "llama.block_count is '2'. Expected a whole number from 0"),
    "layers -1": (number(b"llama.block_count", INT32, struct.pack("<i", -1)), "llama.block_count is -1. Expected a whole number from 0"),
    "layers without end": (number(b"llama.block_count", UINT32, struct.pack("<I", 2**31 - 1)), "num_hidden_layers is 2147483647. Expected a whole"),
    "a width for each layer": (number(b"llama.embedding_length", LIST, listed(UINT32, b"\1\0\0\0")), r"embedding_length is \[1\]. Expected a whole"),
    "heads that are texts": (number(b"llama.attention.head_count", LIST, listed(TEXT, text("a"))), r"head_count is \['a'\]. Expected a whole"),
    "no heads": (number(b"llama.attention.head_count", LIST, listed(UINT32)), r"head_count is \[\]. Expected a whole"),
    "a vocabulary that is a text": (number(b"tokenizer.ggml.tokens", TEXT, text("a")), "tokenizer.ggml.tokens is 'a'. Expected a list"),
    "architecture a list": (
        gguf(pair(b"general.architecture", LIST, listed(TEXT, text("llama")))) + DATA,
        r"general.architecture is \['llama'\]. Expected a text",
    ),
    "architecture a number": (gguf(pair(b"general.architecture", UINT32, b"\1\0\0\0")) + DATA, "general.architecture is 1. Expected a text"),
    "two keys of one name": (model(pair(b"a", BOOL, b"\1"), pair(b"a", BOOL, b"\0")), "the key 'a' is duplicated"),
    "two tensors of one name": (model(tensors=(tensor("w", 8), tensor("w", 8, offset=32))), "two tensors are called 'w'"),
    "nine dimensions": (model(tensors=(tensor("w", *[1] * 9),)), "tensor w has 9 dimensions. At most 8"),
    "80,000 dimensions": (model(tensors=(tensor("w", *[2**63] * 80_000),)), "tensor w has 80,000 dimensions. At most 8"),
    "dimensions without end": (model(tensors=(tensor("w", *[2**64 - 1] * 8),)), "truncated: tensor w should end at byte"),
    "an offset between": (model(tensors=(tensor("w", 8, offset=7),)), "tensor w starts at 7, .* not a multiple of general.alignment=32"),
    "an offset beyond": (model(tensors=(tensor("w", 8, offset=2**64 - 32),)), "truncated: tensor w should end at byte"),
    "more tensors than any": (gguf(ARCHITECTURE, tensors=2**40) + DATA, "1,099,511,627,776 tensors; at most 131,072"),
    "more keys than any": (gguf(pairs=2**60) + DATA, "more than 8,388,608 values"),
    "more texts than any": (number(b"a", LIST, struct.pack("<IQ", TEXT, 2**40) + DATA), "more than 8,388,608 values"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_gguf_header_is_refused_in_one_message(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(DataError, match=rf"m\.gguf: .*{message}") as caught:
        resolved_model.read_model_config(tmp_path / "m.gguf")
    assert len(str(caught.value)) < 500


def test_what_looks_odd_and_is_right_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(
        model(
            pair(ALIGNMENT, UINT32, struct.pack("<I", 64)),
            pair(b"llama.attention.head_count", LIST, listed(UINT32, b"\4\0\0\0", b"\x08\0\0\0")),
            tensors=(tensor("w", 8), tensor("v", *[1] * 8, offset=64), tensor("none", 0, offset=64)),
        )
    )
    header = gguf_file.read_gguf_header(tmp_path / "m.gguf")
    assert [(one.name, one.shape, one.offset % 64) for one in header.tensors] == [
        ("w", (8,), 0), ("v", (1,) * 8, 0), ("none", (0,), 0),
    ]  # fmt: skip
    assert resolved_model.read_model_config(tmp_path / "m.gguf")["num_attention_heads"] == 8


def read_gguf(path: Path) -> None:
    """Read all that is asked of a header, and check what others rely on."""
    try:
        header = gguf_file.read_gguf_header(path)
        sizes = resolved_model.read_model_config(path)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    gguf_file.can_keep_gguf_blocks(header)
    for key, array in header.arrays.items():
        for of_texts in (True, False):
            try:
                assert len(gguf_file.read_header_array(header, key, of_texts)) == array.count
            except DataError as error:
                assert str(path) in str(error)  # noqa: PT017
    for one in (
        *header.tensors,
        *gguf_file.list_in_memory_tensors(header),
        *gguf_file.list_tensors_as_float32(header),
    ):
        gguf_file.compute_packing_overhead_nbytes(one)
    assert len({one.name for one in header.tensors}) == len(header.tensors)
    assert all(0 <= one.offset <= one.offset + one.nbytes <= path.stat().st_size for one in header.tensors)
    assert all(type(sizes[key]) in (int, bool, str) for key in gguf_file.read_gguf_settings(header))
    assert isinstance(header.architecture, str)
    assert header.tensor_type_counts_text is not None


SCALARS = st.one_of(
    st.builds(
        lambda n: (UINT32, struct.pack("<I", n)),
        st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2, 32, 64]),
    ),
    st.builds(lambda n: (INT32, struct.pack("<i", n)), st.integers(-(2**31), 2**31 - 1)),
    st.builds(lambda n: (FLOAT64, struct.pack("<d", n)), st.floats()),
    st.builds(lambda n: (BOOL, bytes([n])), st.integers(0, 255)),
    st.builds(lambda n: (TEXT, text(n)), st.text(max_size=8)),
)
VALUES = SCALARS | st.lists(SCALARS, max_size=4).map(
    lambda many: (LIST, listed(many[0][0] if many else UINT32, *(packed for _, packed in many)))
)
KEYS = st.sampled_from(
    [
        ALIGNMENT,
        b"general.architecture",
        b"tokenizer.ggml.tokens",
        *(f"llama.{key}".encode() for key in gguf_file.COUNTS),
    ]
)
SIZES = st.integers(0, 64) | st.integers(0, 2**64 - 1)
TENSORS = st.builds(
    lambda name, sizes, offset, kind: tensor(name, *sizes, offset=offset, kind=kind),
    st.text(max_size=2), st.lists(SIZES, max_size=10), st.sampled_from([0, 32, 64, 7, 2**63]), st.integers(0, 42),
)  # fmt: skip


@FILES
@given(st.lists(st.tuples(KEYS, VALUES), max_size=4), st.lists(TENSORS, max_size=3), st.integers(0, 4096))
def test_any_gguf_header_is_read_or_refused(
    tmp_path: Path, pairs: list[tuple[bytes, tuple[int, bytes]]], tensors: list[bytes], data_bytes: int
) -> None:
    packed = [pair(key, kind, value) for key, (kind, value) in pairs]
    content = gguf(ARCHITECTURE, *packed, *tensors, tensors=len(tensors), pairs=1 + len(packed)) + bytes(
        data_bytes
    )
    gguf_file._read_header_cached.cache_clear()
    (tmp_path / "m.gguf").write_bytes(content)
    read_gguf(tmp_path / "m.gguf")


@FILES
@given(st.integers(4, 400), st.binary(min_size=1, max_size=9))
def test_any_damage_to_a_gguf_header_is_read_or_refused(tmp_path: Path, at: int, damage: bytes) -> None:
    whole = model(
        pair(ALIGNMENT, UINT32, struct.pack("<I", 32)),
        pair(b"llama.block_count", UINT32, struct.pack("<I", 2)),
        pair(b"llama.attention.head_count", LIST, listed(UINT32, b"\4\0\0\0", b"\x08\0\0\0")),
        tensors=(tensor("token_embd.weight", 32, 4, kind=8), tensor("v", 8, offset=256)),
    )
    gguf_file._read_header_cached.cache_clear()
    (tmp_path / "m.gguf").write_bytes(whole[:at] + damage + whole[at + len(damage) :])
    read_gguf(tmp_path / "m.gguf")


def safetensors(header: str, data_bytes: int = 16) -> bytes:
    return len(header.encode()).to_bytes(8, "little") + header.encode() + bytes(data_bytes)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**400], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [10**400, 0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2**62] * 100_000, "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**63 - 1] * 8, "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [math.nan], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [math.inf], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": "", "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": {}, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [4], "data_offsets": [10**400, 10**400 + 16]},
        {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]},
        {"dtype": {"F32": 1}, "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [[4]], "data_offsets": [0, 16]},
    ],
    ids=lambda entry: repr(entry)[:60],
)  # fmt: skip
def test_a_hostile_safetensors_entry_is_refused_in_one_message(tmp_path: Path, entry: dict[str, Any]) -> None:
    (tmp_path / "m.safetensors").write_bytes(safetensors(json.dumps({"w": entry})))
    with raises(DataError, "damaged", tmp_path / "m.safetensors") as caught:
        weight_files.read_weight_file_header(tmp_path / "m.safetensors")
    assert caught.value.reason.startswith(("tensor w ", "tensor w: "))
    assert len(str(caught.value)) < 500


NUMBERS = st.integers(-1, 32) | st.integers() | st.floats() | st.booleans() | st.just(10**400)
JSON: Callable[[Any], Any] = lambda leaves: st.recursive(  # noqa: E731
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
ANY = JSON(st.none() | NUMBERS | st.text(max_size=4))
ENTRIES = ANY | st.fixed_dictionaries(
    {"dtype": ANY | st.sampled_from(["F32", "F4", "U8"]), "shape": ANY | st.lists(NUMBERS, max_size=9),
     "data_offsets": ANY | st.lists(st.integers(0, 16), min_size=2, max_size=2)}
)  # fmt: skip


@FILES
@given(st.dictionaries(st.sampled_from(["w", "v", "__metadata__"]), ENTRIES), st.integers(0, 32))
def test_any_safetensors_header_is_read_or_refused(
    tmp_path: Path, header: dict[str, Any], data_bytes: int
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors(json.dumps(header), data_bytes))
    try:
        file = weight_files.read_weight_file_header(path)
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert sum(one.nbytes for one in file.tensors) == data_bytes
    assert all(0 <= one.offset <= one.offset + one.nbytes <= file.size for one in file.tensors)
