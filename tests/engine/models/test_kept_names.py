"""The kept names of transformers' modules are those that it reads itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import transformers
from transformers.utils import import_utils

from runner_engine.models import import_structure_cache

read = getattr(import_utils.define_import_structure, "__wrapped__", import_utils.define_import_structure)
READ = getattr(read, "__wrapped__", read)
MODELS = Path(transformers.__file__).parent / "models"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "runner"


@pytest.fixture
def some(tmp_path: Path) -> Path:
    """A folder of a few models."""
    folder = tmp_path / "models"
    for name in ("llama", "gpt2", "auto"):
        shutil.copytree(MODELS / name, folder / name)
    shutil.copy(MODELS / "__init__.py", folder)
    return folder


@pytest.mark.parametrize("where", [("",), ("", "models"), ("__init__.py",), ("auto/__init__.py",)], ids=str)
def test_they_are_those_of_transformers(some: Path, where: tuple[str, ...], cache: Path) -> None:
    place = (str(some / where[0]), *where[1:])
    expected = READ(*place)
    for _ in range(2):  # read, and then kept
        assert import_structure_cache.add_cache_to_structure_reader(READ)(*place) == expected
    assert len(list(cache.glob("names-*"))) == (0 if "auto" in where[0] else 1)


def test_kept_names_are_not_read_again_until_a_file_changes(some: Path) -> None:
    import_structure_cache.add_cache_to_structure_reader(READ)(str(some))

    def never(*_: object) -> import_structure_cache.ImportStructure:
        raise AssertionError("it is kept")

    assert import_structure_cache.add_cache_to_structure_reader(never)(str(some))
    file = some / "llama" / "configuration_llama.py"
    os.utime(file, ns=(1, 1))
    with pytest.raises(AssertionError, match="it is kept"):
        import_structure_cache.add_cache_to_structure_reader(never)(str(some))


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"names": []}', '{"names": [["torch"], 5], "checksum": "0"}']
)
def test_a_damaged_file_is_read_anew(some: Path, cache: Path, damage: str) -> None:
    import_structure_cache.add_cache_to_structure_reader(READ)(str(some))
    [file] = cache.glob("names-*")
    file.write_text(damage)
    assert import_structure_cache.add_cache_to_structure_reader(READ)(str(some)) == READ(str(some))
    assert len(file.read_text()) > 100
