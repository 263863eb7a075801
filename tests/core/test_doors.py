from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from entry_points import forget_entry_points

from runner_base.entry_points import find_plugin_packages

TEXT = """
# a comment
[console_scripts]
tool = tool.main:run

[runner.tasks]
count = counting.task:Count [fast]
 sum=counting.task:Sum
[runner.metrics]
words = counting.words:METRIC
"""
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: of the text\n"


@pytest.fixture(autouse=True)
def _read_anew() -> Iterator[None]:
    forget_entry_points()
    yield
    forget_entry_points()


def install(folder: Path, name: str, version: str, text: str = TEXT, ending: str = "dist-info") -> None:
    """Write the metadata of a package."""
    place = folder / f"{name}-{version}.{ending}"
    place.mkdir(parents=True)
    (place / ("METADATA" if ending == "dist-info" else "PKG-INFO")).write_text(
        METADATA.format(name=name, version=version)
    )
    (place / "entry_points.txt").write_text(text)


def groups_by_package() -> dict[str, dict[str, dict[str, str]]]:
    return {
        str(package): {group: dict(names) for group, names in package.groups.items()}
        for package in find_plugin_packages()
    }


def test_entry_points_are_found_in_folders_and_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", "counting", "1.0")
    install(tmp_path / "old", "older", "0.3", ending="egg-info")
    install(tmp_path / "site", "stranger", "2.0", "[console_scripts]\nx = stranger:run\n")
    install(tmp_path / "zipped", "archived", "3.1")
    with zipfile.ZipFile(tmp_path / "packages.zip", "w") as archive:
        for file in (tmp_path / "zipped").rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(tmp_path / "zipped"))
    for place in ("site", "old", "packages.zip", "missing"):
        monkeypatch.syspath_prepend(str(tmp_path / place))
    found = groups_by_package()
    assert {"counting 1.0", "older 0.3", "archived 3.1"} < found.keys()
    assert "stranger 2.0" not in found
    assert found["counting 1.0"]["runner.tasks"] == {
        "count": "counting.task:Count",
        "sum": "counting.task:Sum",
    }


def test_of_two_versions_the_first_on_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "new", "counting", "2.0")
    install(tmp_path / "old", "counting", "1.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "new"), str(tmp_path / "old"), *sys.path])
    assert "counting 2.0" in groups_by_package()
    assert "counting 1.0" not in groups_by_package()
