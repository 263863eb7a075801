"""Writes what a wheel brings with it, as a bill of materials in CycloneDX's JSON (tools/wheel.py
calls this).

It lists what the wheel requires without extras, and what that requires, in the versions of the
environment that built it. A build of the same wheel in the same environment gives the same file: it
holds no time and no random number.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LONGEST_NAME = 80  # of a licence: some packages write its whole text where the name belongs


def required(package: Distribution, extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """Return the packages, and their extras, that a package with these extras requires on this
    machine."""
    found: list[tuple[str, frozenset[str]]] = []
    for requirement in map(Requirement, package.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            found.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def closure(root: Distribution) -> tuple[dict[str, Distribution], dict[str, set[str]]]:
    """Return all that a package requires directly or by others, by name, and which of them each
    requires itself."""
    root_name: str = canonicalize_name(root.name)
    packages, requires = {root_name: root}, {root_name: set[str]()}
    waiting, seen = [(root_name, frozenset[str]())], set[tuple[str, frozenset[str]]]()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for needed, extras_of_needed in required(packages[name], extras):
            if needed not in packages:
                try:
                    packages[needed] = distribution(needed)
                except PackageNotFoundError as error:
                    raise SystemExit(
                        f"{needed}, which {name} requires, is not installed: no bill of materials"
                    ) from error
                requires[needed] = set()
            requires[name].add(needed)
            waiting.append((needed, extras_of_needed))
    return packages, requires


def licenses(package: Distribution) -> list[dict[str, Any]]:
    """Return the licence as an expression where the package gives one, else the name that it
    gives."""
    fields = package.metadata
    if "License-Expression" in fields:
        return [{"expression": fields["License-Expression"]}]
    name = "".join(fields.get_all("License") or [])
    if "\n" not in name and 0 < len(name) <= LONGEST_NAME and name != "UNKNOWN":
        return [{"license": {"name": name}}]
    classifiers = [line for line in fields.get_all("Classifier") or [] if line.startswith("License :: ")]
    return [{"license": {"name": line.rpartition(" :: ")[2]}} for line in sorted(classifiers)]


def package_url(package: Distribution) -> str:
    """Return the address of a package in the form that scanners look for."""
    return f"pkg:pypi/{canonicalize_name(package.name)}@{quote(package.version, safe='')}"


def component(package: Distribution) -> dict[str, Any]:
    url = package_url(package)
    described = {
        "type": "library",
        "bom-ref": url,
        "name": package.name,
        "version": package.version,
        "purl": url,
    }
    found = licenses(package)
    return described | ({"licenses": found} if found else {})


def wheel_file(wheel: Path) -> dict[str, Any]:
    """Describe a wheel by its name and what it contains."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    hashes = [{"alg": "SHA-256", "content": digest}]
    return {"type": "file", "bom-ref": wheel.name, "name": wheel.name, "hashes": hashes}


def bill(wheels: Sequence[Path]) -> dict[str, Any]:
    """Return the bill of materials of wheels of one version."""
    root = next(iter(distributions(path=[str(wheels[0])])))
    packages, requires = closure(root)
    root_name = canonicalize_name(root.name)
    addresses = {name: package_url(package) for name, package in packages.items()}
    system = f"Python {platform.python_version()}, {platform.system()}, {platform.machine()}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": component(root) | {"components": [wheel_file(wheel) for wheel in sorted(wheels)]},
            "properties": [{"name": "runner:versions-of", "value": system}],
        },
        "components": [component(packages[name]) for name in sorted(packages) if name != root_name],
        "dependencies": [
            {"ref": addresses[name], "dependsOn": sorted(addresses[needed] for needed in requires[name])}
            for name in sorted(packages)
        ],
    }


def write(wheels: Sequence[Path]) -> Path:
    """Write the bill of materials beside wheels of one version, and return its file."""
    name, version, *_ = wheels[0].name.split("-")
    file = wheels[0].with_name(f"{name}-{version}.cdx.json")
    file.write_text(json.dumps(bill(wheels), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file
