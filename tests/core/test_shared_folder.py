"""The folder that several paths share, which need not be said for each of them."""

from __future__ import annotations

import pytest

from runner_base.files import find_common_folder


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (["/m/a.gguf", "/m/deep/b.gguf", "/m/folder"], "/m/"),
        (["models/a.gguf", "models/b.gguf"], "models/"),
        (["Qwen/a", "Qwen/b"], ""),
        (["a.gguf", "b.gguf"], ""),
        (["/m/a.gguf", "m/b.gguf"], ""),
        (["/a.gguf", "/b.gguf"], ""),
        (["/m/a.gguf", "/m/a.gguf"], ""),
        ([], ""),
    ],
)
def test_the_folder_of_paths(names: list[str], folder: str) -> None:
    assert find_common_folder(names) == folder
