"""C and Python agree on every structure and number that both rely on, or the library is not
used."""

from __future__ import annotations

import ctypes
import logging

import pytest

from runner_base import processor
from runner_engine.kernels import building, c_interface, native
from runner_engine.kernels.c_interface import SharedPart
from runner_engine.kernels.kernel_errors import build_kernel_refusal_error
from runner_engine.render.refusals import REFUSALS

pytestmark = pytest.mark.skipif(
    native.load_kernels() is None, reason="no C compiler is here, so nothing is called in C"
)


def loaded() -> ctypes.CDLL:
    compiler = processor.find_c_compiler()
    assert compiler is not None
    return ctypes.CDLL(str(building.ensure_compiled_library(compiler)))


def test_they_agree() -> None:
    assert c_interface.find_differing_c_constants(loaded()) == []
    assert c_interface.read_kernel_library_constants(loaded())["sizeof fused_tokens"] == ctypes.sizeof(
        c_interface.FusedTokens
    )


class Swapped(ctypes.Structure):
    """A shared part with two of its fields in the other order: its size is the same."""

    _fields_ = tuple(SharedPart._fields_[place] for place in (0, 2, 1, 3, 4, 5, 6, 7))


class Short(ctypes.Structure):
    """A shared part without its last field."""

    _fields_ = SharedPart._fields_[:-1]


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (
            Swapped,
            ["shared_part.causal is 16 in C and 8 in Python", "shared_part.sees is 8 in C and 16 in Python"],
        ),
        (
            Short,
            [
                "shared_part.from is 56 in C and unknown in Python",
                "sizeof shared_part is 64 in C and 56 in Python",
            ],
        ),
    ],
)
def test_a_library_with_other_structures_is_not_used(
    structure: type[ctypes.Structure],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(c_interface.STRUCTURES, "shared_part", structure)
    found = c_interface.find_differing_c_constants(loaded())
    assert [difference.removeprefix("the constant ") for difference in found] == expected
    native.load_kernels.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="runner_engine.kernels.native"):
            assert native.load_kernels() is None, "torch does the work"
    finally:
        native.load_kernels.cache_clear()
    [message] = caplog.messages
    assert "torch replaces" in message
    assert message.endswith(f": {'; '.join(found)}")


def test_every_refusal_has_words() -> None:
    assert REFUSALS.keys() == {refusal.name for refusal in c_interface.Refusal}
    assert len(set(REFUSALS.values())) == len(REFUSALS), "each has its own"
    for refusal in c_interface.Refusal:
        error = build_kernel_refusal_error(int(refusal) << 32 | 7, "product")
        assert len(str(error)) > len("product: ")
        assert type(error) is (MemoryError if refusal is c_interface.Refusal.NO_MEMORY else IndexError)


def test_a_library_that_exports_no_numbers_is_damaged() -> None:
    with pytest.raises(AttributeError):
        c_interface.read_kernel_library_constants(ctypes.CDLL("libc.so.6"))
