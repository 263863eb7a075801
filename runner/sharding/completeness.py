"""Checks that the parts together are the model: each tensor once, tied ones alike, totals right, as in the source."""

from __future__ import annotations

from collections.abc import Callable

from runner.checkpoints import byteio
from runner.checkpoints.weight_files import Checkpoint, Tensor
from runner.core.errors import DataError
from runner.sharding.check import CheckedPart, check_files, check_parts, source_headers
from runner.sharding.manifest import MANIFEST, Manifest, Totals

Advance = Callable[[int], None]
MOST_LISTED = 20  # problems that an error lists; task=verify lists all


def require_complete(manifest: Manifest, advance: Advance) -> list[CheckedPart]:
    """Check the files of all parts at level `files`; raise DataError with the problems found."""
    checked = check_parts(manifest, "files", advance)
    problems = [problem for found in check_files(manifest, "files").values() for problem in found]
    problems += [problem for part in checked for problem in part.problems]
    problems += coverage_problems(manifest, checked)
    if problems:
        more = (
            f"\n  and {len(problems) - MOST_LISTED} more: task=verify lists all" if len(problems) > MOST_LISTED else ""
        )
        lines = "".join(f"\n  {problem}" for problem in problems[:MOST_LISTED])
        raise DataError(f"task.parts={manifest.folder}: damaged, nothing was written:{lines}{more}")
    return checked


def parts_by_tensor(checked: list[CheckedPart]) -> dict[str, list[CheckedPart]]:
    """Return the parts that hold each tensor, by its name."""
    found: dict[str, list[CheckedPart]] = {}
    for one in checked:
        for name in one.tensors or {}:
            found.setdefault(name, []).append(one)
    return found


def coverage_problems(manifest: Manifest, checked: list[CheckedPart]) -> list[str]:
    """Say which tensors are missing, stored twice or different in two parts, and which totals are wrong."""
    unread = [one.entry.stored.file for one in checked if one.tensors is None]
    if unread:
        return [f"whether every tensor is there was not checked, because of {', '.join(unread)}"]
    found, problems = parts_by_tensor(checked), list[str]()
    tied = {one.tensor: list(one.parts) for one in manifest.tied}
    for name, places in found.items():
        ids = [one.entry.part_id for one in places]
        expected = tied.get(name, ids[:1])
        if ids != expected:
            problems.append(f"{MANIFEST}: tensor {name}: in parts {expected} expected, found in {ids}")
        problems += _differences(name, places)
    problems += [f"{MANIFEST}: tied tensor {name} is in none of the parts" for name in tied if name not in found]
    return problems + _against_headers(manifest, found) + _totals(manifest, checked, found)


def _differences(name: str, places: list[CheckedPart]) -> list[str]:
    """Compare the copies of a tensor that is stored in several parts."""
    problems = []
    first = _seen(places[0], name)
    for other in places[1:]:
        for what, here, there in zip(("dtype", "shape", "content"), first, _seen(other, name), strict=True):
            if here != there and None not in (here, there):
                files = places[0].entry.stored.file, other.entry.stored.file
                problems.append(f"{files[1]}: tensor {name}: {what} {here} expected as in {files[0]}, {there} found")
    return problems


def _seen(place: CheckedPart, name: str) -> tuple[str, str, str | None]:
    assert place.tensors is not None
    tensor = place.tensors[name]
    return tensor.dtype, str(list(tensor.shape)), place.digests.get(name)


def _against_headers(manifest: Manifest, found: dict[str, list[CheckedPart]]) -> list[str]:
    """Compare the tensors of the parts with the source's own headers."""
    problems = []
    try:
        files = source_headers(manifest)
    except (DataError, OSError) as error:
        return [str(error)]
    expected = {tensor.name: (file.path.name, tensor) for file in files for tensor in file.tensors}
    names = [(listed.file, name) for listed in manifest.files for name in listed.tensors or ()]
    problems += [f"{file}: tensor {name} is in none of the parts" for file, name in names if name not in found]
    for name, (file, tensor) in expected.items():
        if name not in found:
            problems.append(f"{file}: tensor {name} is in none of the parts")
            continue
        dtype, shape, _ = _seen(found[name][0], name)
        if (dtype, shape) != (tensor.dtype, str(list(tensor.shape))):
            problems.append(
                f"{found[name][0].entry.stored.file}: tensor {name}: {tensor.dtype} {list(tensor.shape)} expected by "
                f"{file}, {dtype} {shape} found"
            )
    if expected or names:
        known = expected.keys() | {name for _, name in names}
        problems += [
            f"{places[0].entry.stored.file}: tensor {name} is none of the source's"
            for name, places in found.items()
            if name not in known
        ]
    return problems


def _totals(manifest: Manifest, checked: list[CheckedPart], found: dict[str, list[CheckedPart]]) -> list[str]:
    stored = [tensor for one in checked for tensor in (one.tensors or {}).values()]
    unique = [(places[0].tensors or {})[name] for name, places in found.items()]
    actual = Totals(
        tensors=len(unique),
        unique_params=sum(tensor.params for tensor in unique),
        stored_params=sum(tensor.params for tensor in stored),
        unique_bytes=sum(tensor.nbytes for tensor in unique),
        stored_bytes=sum(tensor.nbytes for tensor in stored),
    )
    return [
        f"{MANIFEST}: totals.{key}: {listed} expected, {getattr(actual, key)} found"
        for key, listed in vars(manifest.totals).items()
        if listed != getattr(actual, key)
    ]


# ------------------------------------------------------------------------------------------------ source


def source_problems(
    manifest: Manifest, checked: list[CheckedPart], checkpoint: Checkpoint, level: str, advance: Advance
) -> list[str]:
    """Compare the parts with the checkpoint that they were made from, tensor by tensor."""
    found, problems = parts_by_tensor(checked), list[str]()
    known = {tensor.name for tensor in checkpoint.tensors}
    for tensor in checkpoint.tensors:
        if tensor.name not in found:
            problems.append(f"{tensor.file.name}: tensor {tensor.name} of the source is in none of the parts")
            advance(tensor.nbytes)
            continue
        problems += _against_source(tensor, found[tensor.name], level, advance)
    for name, places in found.items():
        if name not in known:
            problems.append(f"{places[0].entry.stored.file}: tensor {name} is none of the source's")
    companions = {path.name: path for path in checkpoint.companions}
    for listed in manifest.companions:
        path = companions.get(listed.file)
        if path is None:
            problems.append(f"{listed.file}: the source has no such file any more")
        elif (digest := byteio.file_digest(path, byteio.algorithm_of(str(listed.digest)))) != listed.digest:
            problems.append(f"{listed.file}: {listed.digest} expected of the source's, {digest} found")
    return problems


def _against_source(tensor: Tensor, places: list[CheckedPart], level: str, advance: Advance) -> list[str]:
    digests: dict[str, str] = {}
    problems = []
    for place in places:
        where = f"{place.entry.stored.file}: tensor {tensor.name}"
        dtype, shape, digest = _seen(place, tensor.name)
        if (dtype, shape) != (tensor.dtype, str(list(tensor.shape))):
            problems.append(
                f"{where}: {tensor.dtype} {list(tensor.shape)} expected as in the source, {dtype} {shape} found"
            )
        elif level != "quick" and digest is not None:
            algorithm = byteio.algorithm_of(digest)
            if algorithm not in digests:
                digests[algorithm] = byteio.digest_of(byteio.tensor_pieces(tensor), algorithm, advance)
            if digests[algorithm] != digest:
                problems.append(f"{where}: {digests[algorithm]} expected as in the source, {digest} found")
    return problems


def source_bytes(checkpoint: Checkpoint) -> int:
    """How many bytes a comparison with the source reads of it."""
    return sum(tensor.nbytes for tensor in checkpoint.tensors)
