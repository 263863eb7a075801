"""Checks that the parts make the whole model: each tensor once, equal copies, right totals, as in
the source."""

from __future__ import annotations

from collections.abc import Collection

from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding.archive import Advance
from runner.options.parts.sharding.check import CheckedPart, check_files, check_part, source_headers
from runner.options.parts.sharding.manifest import MANIFEST, Manifest, Totals
from runner.options.parts.sharding.write import Meter, OpenProgress
from runner_base import DataError
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
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
        lines = [render_note(problem, NOTES) for problem in problems[:MAX_LISTED]]
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


def coverage_problems(manifest: Manifest, checked: list[CheckedPart]) -> list[Note]:
    """Return which tensors are missing, stored twice or different in two parts, and which totals are
    wrong."""
    unread = [part.entry.stored.file for part in checked if not part.readable]
    if unread:
        return [note("unchecked", files=", ".join(unread))]
    parts_of, problems = parts_by_tensor(checked), list[Note]()
    for name, places in parts_of.items():
        ids = [part.entry.part_id for part in places]
        expected = list(manifest.tied.get(name, ids[:1]))
        if ids != expected:
            problems.append(note("other_parts", file=MANIFEST, tensor=name, expected=expected, found=ids))
        problems += _differences(name, places)
    absent = [name for name in manifest.tied if name not in parts_of]
    problems += [note("tied_absent", file=MANIFEST, tensor=name) for name in absent]
    return problems + _against_headers(manifest, parts_of) + _totals(manifest, checked, parts_of)


def _differences(name: str, places: list[CheckedPart]) -> list[Note]:
    """Compare the copies of a tensor that is stored in several parts."""
    tensors = [(part.tensors[name], part.digests.get(name)) for part in places]
    copies = [(tensor.dtype, str(list(tensor.shape)), digest) for tensor, digest in tensors]
    first, problems = places[0].entry.stored.file, list[Note]()
    for other, copy in zip(places[1:], copies[1:], strict=True):
        for what, here, there in zip(("dtype", "shape", "content"), copies[0], copy, strict=True):
            if here != there and None not in (here, there):
                problems.append(
                    note(
                        "copies_differ",
                        file=other.entry.stored.file,
                        tensor=name,
                        what=what,
                        expected=here,
                        first=first,
                        found=there,
                    )
                )
    return problems


def _other_form(part: CheckedPart, tensor: Tensor, by: str) -> list[Note]:
    """Return where a part holds a tensor of the source in another dtype or shape."""
    held = part.tensors[tensor.name]
    if (held.dtype, held.shape) == (tensor.dtype, tensor.shape):
        return []
    expected, found = (f"{form.dtype} {list(form.shape)}" for form in (tensor, held))
    file = part.entry.stored.file
    return [note("other_form", file=file, tensor=tensor.name, expected=expected, by=by, found=found)]


def _foreign_tensors(found: dict[str, list[CheckedPart]], known: Collection[str]) -> list[Note]:
    return [
        note("foreign", file=places[0].entry.stored.file, tensor=name)
        for name, places in found.items()
        if name not in known
    ]


def _against_headers(manifest: Manifest, found: dict[str, list[CheckedPart]]) -> list[Note]:
    """Compare the tensors of the parts with the source's own headers, or with its list of what its
    .bin files hold."""
    try:
        files = source_headers(manifest)
    except (DataError, OSError) as error:
        return [note("unreadable", error=str(error))]
    known = {name: listed.file for listed in manifest.files for name in listed.tensors or ()}
    problems = [note("absent", file=file, tensor=name) for name, file in known.items() if name not in found]
    for file in files:
        for tensor in file.tensors:
            known[tensor.name] = file.path.name
            if tensor.name in found:
                problems += _other_form(found[tensor.name][0], tensor, f"by {file.path.name}")
            else:
                problems.append(note("absent", file=file.path.name, tensor=tensor.name))
    return problems + (_foreign_tensors(found, known) if known else [])


def _totals(
    manifest: Manifest, checked: list[CheckedPart], found: dict[str, list[CheckedPart]]
) -> list[Note]:
    stored = [tensor for part in checked for tensor in part.tensors.values()]
    unique = [places[0].tensors[name] for name, places in found.items()]
    actual = vars(Totals.of(unique, stored))
    return [
        note("other_total", file=MANIFEST, key=key, expected=listed, found=actual[key])
        for key, listed in vars(manifest.totals).items()
        if listed != actual[key]
    ]


# ------------------------------------------------------------------------------------------- source


def source_problems(
    manifest: Manifest, checked: list[CheckedPart], checkpoint: Checkpoint, level: str, advance: Advance
) -> list[Note]:
    """Compare the parts with the checkpoint that they were made from, tensor by tensor."""
    parts_of, problems = parts_by_tensor(checked), list[Note]()
    for tensor in checkpoint.tensors:
        if tensor.name in parts_of:
            problems += _against_source(tensor, parts_of[tensor.name], level, advance)
        else:
            problems.append(note("absent_of_source", file=tensor.file.name, tensor=tensor.name))
            advance(tensor.nbytes)
    problems += _foreign_tensors(parts_of, {tensor.name for tensor in checkpoint.tensors})
    companions = {path.name: path for path in checkpoint.companions}
    for listed in manifest.companions:
        path = companions.get(listed.file)
        if path is None:
            problems.append(note("source_lacks", file=listed.file))
        elif (digest := byteio.file_digest(path, byteio.algorithm_of(str(listed.digest)))) != listed.digest:
            expected = listed.digest
            problems.append(note("other_than_source", file=listed.file, expected=expected, found=digest))
    return problems


def _against_source(tensor: Tensor, places: list[CheckedPart], level: str, advance: Advance) -> list[Note]:
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
            problems.append(
                note(
                    "other_content",
                    file=part.entry.stored.file,
                    tensor=tensor.name,
                    expected=digests[algorithm],
                    found=listed,
                )
            )
    return problems
