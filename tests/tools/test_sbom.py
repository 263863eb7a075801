"""tools/sbom.py: the bill of materials lists what the wheel brings, and nothing else."""

from __future__ import annotations

import hashlib
import json
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tools import sbom

ROOT = Path(__file__).resolve().parents[2]
HEAD = "Metadata-Version: 2.4\nName: runner-llm\nVersion: 0.1.0\n"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """With what the project requires, and nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    always = [f"Requires-Dist: {requirement}\n" for requirement in project["dependencies"]]
    with_extras = [
        f'Requires-Dist: {requirement}; extra == "{extra}"\n'
        for extra, requirements in project["optional-dependencies"].items()
        for requirement in requirements
    ]
    return wheel_with(HEAD + "".join(always + with_extras), tmp_path)


def wheel_with(metadata: str, folder: Path) -> Path:
    file = folder / "runner_llm-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("runner_llm-0.1.0.dist-info/METADATA", metadata)
    return file


def written(wheel: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(sbom.write([wheel]).read_text())
    return content


@pytest.mark.thorough
def test_it_lists_what_is_required_directly_or_by_others(wheel: Path) -> None:
    names = [part["name"] for part in written(wheel)["components"]]
    assert {"torch", "hydra-core", "msgspec"} <= set(names)
    assert "antlr4-python3-runtime" in names, "which OmegaConf requires"
    assert not {"pytest", "mypy", "ray", "torchao", "runner-llm"} & set(names), "only with an extra"
    assert names == sorted(set(names), key=lambda name: name.lower().replace("_", "-"))


@pytest.mark.thorough
def test_it_has_the_fields_of_the_format(wheel: Path) -> None:
    content = written(wheel)
    assert (content["bomFormat"], content["specVersion"], content["version"]) == ("CycloneDX", "1.6", 1)
    for part in content["components"]:
        assert part["type"] == "library"
        assert part["name"]
        assert part["version"]
        assert part["bom-ref"] == part["purl"]
        assert part["purl"].startswith("pkg:pypi/")
    torch = next(part for part in content["components"] if part["name"] == "torch")
    assert torch["version"] == distribution("torch").version
    assert "+" not in torch["purl"]
    root = content["metadata"]["component"]
    assert root["purl"] == "pkg:pypi/runner-llm@0.1.0"
    graph = {node["ref"]: node["dependsOn"] for node in content["dependencies"]}
    references = {part["bom-ref"] for part in content["components"]} | {root["bom-ref"]}
    assert set(graph) == references
    assert {needed for needs in graph.values() for needed in needs} == references - {root["bom-ref"]}
    assert torch["purl"] in graph[root["bom-ref"]]


def test_the_wheel_is_named_with_its_digest(wheel: Path) -> None:
    (file,) = written(wheel)["metadata"]["component"]["components"]
    assert file["name"] == wheel.name
    assert file["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]


@pytest.mark.thorough
def test_the_same_wheel_gives_the_same_file(wheel: Path) -> None:
    file = sbom.write([wheel])
    assert file.name == "runner_llm-0.1.0.cdx.json"
    first = file.read_bytes()
    assert sbom.write([wheel]).read_bytes() == first


def test_extras_and_markers_of_requirements_are_followed(tmp_path: Path) -> None:
    plain = wheel_with(
        HEAD + 'Requires-Dist: psycopg\nRequires-Dist: scipy; sys_platform == "win32"\n', tmp_path
    )
    names = {part["name"] for part in written(plain)["components"]}
    assert "psycopg" in names
    assert not {"psycopg-binary", "scipy"} & names
    with_extra = wheel_with(HEAD + "Requires-Dist: psycopg[binary]\n", tmp_path)
    assert "psycopg-binary" in {part["name"] for part in written(with_extra)["components"]}


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    wheel = wheel_with(HEAD + "Requires-Dist: Not_There\n", tmp_path)
    with pytest.raises(SystemExit, match="not-there, which runner-llm requires, is not installed"):
        sbom.write([wheel])
    assert not list(tmp_path.glob("*.json"))
