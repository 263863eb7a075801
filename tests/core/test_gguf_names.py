"""A .gguf file is recognised by its suffix, in whichever letters it is written."""

import pytest

from runner_base import names_gguf_file


@pytest.mark.parametrize(
    ("name", "is_file"),
    [("m.gguf", True), ("/a/M.GGUF", True), ("org/m.Gguf", True), ("m.gguf.part", False),
     ("gguf", False), ("", False)],
)  # fmt: skip
def test_names(name: str, is_file: bool) -> None:
    assert names_gguf_file(name) is is_file
