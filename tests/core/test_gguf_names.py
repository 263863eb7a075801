"""A .gguf file is recognised by its suffix, in whichever letters it is written."""

import pytest

from runner_base import is_gguf_file_name


@pytest.mark.parametrize(
    ("name", "is_file"),
    [("m.gguf", True), ("/a/M.GGUF", True), ("org/m.Gguf", True), ("m.gguf.part", False),
     ("gguf", False), ("", False)],
)  # fmt: skip
def test_names(name: str, is_file: bool) -> None:
    assert is_gguf_file_name(name) is is_file
