"""Checks that the parts make the whole model: each tensor once, equal copies, right totals, as in
the source."""

from __future__ import annotations

from collections.abc import Collection

from runner.options.parts.sharding.archive import Advance
from runner.options.parts.sharding.check import CheckedPart, check_files, check_part, source_headers
from runner.options.parts.sharding.manifest import MANIFEST, Manifest, Totals
from runner.options.parts.sharding.write import Meter, OpenProgress
from runner_base import DataError
from runner_engine import Tensor
from runner_engine.checkpoints import Checkpoint, byteio

MAX_LISTED = 20  # problems that an error lists; task=verify lists all


def require_complete(manifest: Manifest, progress: OpenProgress) -> list[CheckedPart]:
    """Check the files of all parts at level `files`; raise DataError with the problems found."""
    with progress(sum(part.stored.nbytes for part in manifest.parts), "check parts", "bytes") as bar:
        meter = Meter(bar)
        checked = [check_part(manifest, part, "files", meter) for part in manifest.parts]
    problems = [problem for found in check_files(manifest, "files").values() for problem in found]
    problems += [problem for part in checked for problem in part.problems]
    problems += coverage_problems(manifest, checked)
    if problems:
        lines = problems[:MAX_LISTED]
        if len(problems) > MAX_LISTED:
            lines.append(f"and {len(problems) - MAX_LISTED} more: task=verify lists all")
        listed = "".join(f"\n  {line}" for line in lines)
        raise DataError(
            f"damaged, nothing was written:{listed}", key="task.parts", value=manifest.folder, code="damaged"
        )
    return checked


def parts_by_tensor(checked: list[CheckedPart]) -> dict[str, list[CheckedPart]]:
    """Return the parts that hold each tensor, by its name."""
    found: dict[str, list[CheckedPart]] = {}
    for part in checked:
        for name in part.tensors:
            found.setdefault(name, []).append(part)
    return found


def coverage_problems(manifest: Manifest, checked: list[CheckedPart]) -> list[str]:
    """Say which tensors are missing, stored twice or different in two parts, and which totals are
    wrong."""
    unread = [part.entry.stored.file for part in checked if not part.readable]
    if unread:
        return [f"whether every tensor is there was not checked, because of {', '.join(unread)}"]
    parts_of, problems = parts_by_tensor(checked), list[str]()
    for name, places in parts_of.items():
        ids = [part.entry.part_id for part in places]
        expected = list(manifest.tied.get(name, ids[:1]))
        if ids != expected:
            problems.append(f"{MANIFEST}: tensor {name}: in parts {expected} expected, found in {ids}")
        problems += _differences(name, places)
    absent = [name for name in manifest.tied if name not in parts_of]
    problems += [f"{MANIFEST}: tied tensor {name} is in none of the parts" for name in absent]
    return problems + _against_headers(manifest, parts_of) + _totals(manifest, checked, parts_of)


def _differences(name: str, places: list[CheckedPart]) -> list[str]:
    """Compare the copies of a tensor that is stored in several parts."""
    tensors = [(part.tensors[name], part.digests.get(name)) for part in places]
    copies = [(tensor.dtype, str(list(tensor.shape)), digest) for tensor, digest in tensors]
    first, problems = places[0].entry.stored.file, list[str]()
    for other, copy in zip(places[1:], copies[1:], strict=True):
        for what, here, there in zip(("dtype", "shape", "content"), copies[0], copy, strict=True):
            if here != there and None not in (here, there):
                where = f"{other.entry.stored.file}: tensor {name}"
                problems.append(f"{where}: {what} {here} expected as in {first}, {there} found")
    return problems


def _other_form(part: CheckedPart, tensor: Tensor, by: str) -> list[str]:
    """Say where a part holds a tensor of the source in another dtype or shape."""
    held = part.tensors[tensor.name]
    if (held.dtype, held.shape) == (tensor.dtype, tensor.shape):
        return []
    expected, found = (f"{form.dtype} {list(form.shape)}" for form in (tensor, held))
    return [f"{part.entry.stored.file}: tensor {tensor.name}: {expected} expected {by}, {found} found"]


def _foreign_tensors(found: dict[str, list[CheckedPart]], known: Collection[str]) -> list[str]:
    return [
        f"{places[0].entry.stored.file}: tensor {name} is not in the source"
        for name, places in found.items()
        if name not in known
    ]


def _against_headers(manifest: Manifest, found: dict[str, list[CheckedPart]]) -> list[str]:
    """Compare the tensors of the parts with the source's own headers, or with its list of what its
    .bin files hold."""
    try:
        files = source_headers(manifest)
    except (DataError, OSError) as error:
        return [str(error)]
    known = {name: listed.file for listed in manifest.files for name in listed.tensors or ()}
    problems = [
        f"{file}: tensor {name} is in none of the parts" for name, file in known.items() if name not in found
    ]
    for file in files:
        for tensor in file.tensors:
            known[tensor.name] = file.path.name
            if tensor.name in found:
                problems += _other_form(found[tensor.name][0], tensor, f"by {file.path.name}")
            else:
                problems.append(f"{file.path.name}: tensor {tensor.name} is in none of the parts")
    return problems + (_foreign_tensors(found, known) if known else [])


def _totals(manifest: Manifest, checked: list[CheckedPart], found: dict[str, list[CheckedPart]]) -> list[str]:
    stored = [tensor for part in checked for tensor in part.tensors.values()]
    unique = [places[0].tensors[name] for name, places in found.items()]
    actual = vars(Totals.of(unique, stored))
    return [
        f"{MANIFEST}: totals.{key}: {listed} expected, {actual[key]} found"
        for key, listed in vars(manifest.totals).items()
        if listed != actual[key]
    ]


# ------------------------------------------------------------------------------------------- source


def source_problems(
    manifest: Manifest, checked: list[CheckedPart], checkpoint: Checkpoint, level: str, advance: Advance
) -> list[str]:
    """Compare the parts with the checkpoint that they were made from, tensor by tensor."""
    parts_of, problems = parts_by_tensor(checked), list[str]()
    for tensor in checkpoint.tensors:
        if tensor.name in parts_of:
            problems += _against_source(tensor, parts_of[tensor.name], level, advance)
        else:
            problems.append(f"{tensor.file.name}: tensor {tensor.name} of the source is in none of the parts")
            advance(tensor.nbytes)
    problems += _foreign_tensors(parts_of, {tensor.name for tensor in checkpoint.tensors})
    companions = {path.name: path for path in checkpoint.companions}
    for listed in manifest.companions:
        path = companions.get(listed.file)
        if path is None:
            problems.append(f"{listed.file}: the source no longer has this file")
        elif (digest := byteio.file_digest(path, byteio.algorithm_of(str(listed.digest)))) != listed.digest:
            problems.append(f"{listed.file}: {listed.digest} expected of the source's, {digest} found")
    return problems


def _against_source(tensor: Tensor, places: list[CheckedPart], level: str, advance: Advance) -> list[str]:
    digests: dict[str, str] = {}
    problems = []
    for part in places:
        other, listed = (_other_form(part, tensor, "as in the source"), part.digests.get(tensor.name))
        problems += other
        if other or level == "quick" or listed is None:
            continue
        algorithm = byteio.algorithm_of(listed)
        if algorithm not in digests:
            digests[algorithm] = byteio.digest_of(byteio.tensor_pieces(tensor), algorithm, advance)
        if digests[algorithm] != listed:
            where = f"{part.entry.stored.file}: tensor {tensor.name}"
            problems.append(f"{where}: {digests[algorithm]} expected as in the source, {listed} found")
    return problems
