"""Checks that the parts of a split contain the whole model."""

from __future__ import annotations

from collections.abc import Collection

from runner.options.parts.render.notes import NOTES
from runner.options.parts.sharding.manifest import MANIFEST, Manifest, Totals
from runner.options.parts.sharding.part_checks import (
    CheckedPart,
    check_part,
    find_damaged_auxiliary_files,
    read_source_safetensors_headers,
)
from runner.options.parts.sharding.split_writer import ByteMeter, OpenProgress
from runner.options.parts.sharding.zstd_archive import ProgressCallback
from runner_base import DataError
from runner_base.notes import Note, note
from runner_base.render.notes import render_note
from runner_engine import TensorLocation
from runner_engine.checkpoints import Checkpoint, file_io

MAX_LISTED = 20  # problems that an error lists; task=verify lists all


def require_all_tensors_in_parts(manifest: Manifest, progress: OpenProgress) -> list[CheckedPart]:
    """Check that the parts together contain every tensor. Raises DataError with up to 20 problems."""
    with progress(sum(part.stored.nbytes for part in manifest.parts), "check parts", "bytes") as bar:
        meter = ByteMeter(bar)
        checked = [check_part(manifest, part, "files", meter) for part in manifest.parts]
    problems = [
        problem for found in find_damaged_auxiliary_files(manifest, "files").values() for problem in found
    ]
    problems += [problem for part in checked for problem in part.problems]
    problems += find_tensor_problems(manifest, checked)
    if problems:
        lines = [render_note(problem, NOTES) for problem in problems[:MAX_LISTED]]
        if len(problems) > MAX_LISTED:
            lines.append(f"and {len(problems) - MAX_LISTED} more problems. task=verify lists all problems")
        listed = "".join(f"\n  {line}" for line in lines)
        raise DataError(
            f"damaged, nothing was written:{listed}", key="task.parts", value=manifest.folder, code="damaged"
        )
    return checked


def group_parts_by_tensor(checked_parts: list[CheckedPart]) -> dict[str, list[CheckedPart]]:
    """Map each tensor name to the parts that contain the tensor."""
    found: dict[str, list[CheckedPart]] = {}
    for part in checked_parts:
        for name in part.tensors:
            found.setdefault(name, []).append(part)
    return found


def find_tensor_problems(manifest: Manifest, checked_parts: list[CheckedPart]) -> list[Note]:
    unread = [part.entry.stored.file for part in checked_parts if not part.readable]
    if unread:
        return [note("unchecked", files=", ".join(unread))]
    parts_of, problems = group_parts_by_tensor(checked_parts), list[Note]()
    for name, places in parts_of.items():
        ids = [part.entry.part_id for part in places]
        expected = list(manifest.tied.get(name, ids[:1]))
        if ids != expected:
            problems.append(note("other_parts", file=MANIFEST, tensor=name, expected=expected, found=ids))
        problems += _find_copy_differences(name, places)
    absent = [name for name in manifest.tied if name not in parts_of]
    problems += [note("tied_absent", file=MANIFEST, tensor=name) for name in absent]
    return (
        problems
        + _compare_part_headers_with_source(manifest, parts_of)
        + _find_wrong_manifest_totals(manifest, checked_parts, parts_of)
    )


def _find_copy_differences(tensor_name: str, parts: list[CheckedPart]) -> list[Note]:
    tensors = [(part.tensors[tensor_name], part.digests.get(tensor_name)) for part in parts]
    copies = [(tensor.dtype, str(list(tensor.shape)), digest) for tensor, digest in tensors]
    first, problems = parts[0].entry.stored.file, list[Note]()
    for other, copy in zip(parts[1:], copies[1:], strict=True):
        for what, here, there in zip(("dtype", "shape", "content"), copies[0], copy, strict=True):
            if here != there and None not in (here, there):
                problems.append(
                    note(
                        "copies_differ",
                        file=other.entry.stored.file,
                        tensor=tensor_name,
                        what=what,
                        expected=here,
                        first=first,
                        found=there,
                    )
                )
    return problems


def _check_dtype_and_shape(part: CheckedPart, tensor: TensorLocation, source: str) -> list[Note]:
    held = part.tensors[tensor.name]
    if (held.dtype, held.shape) == (tensor.dtype, tensor.shape):
        return []
    expected, found = (f"{form.dtype} {list(form.shape)}" for form in (tensor, held))
    file = part.entry.stored.file
    return [note("other_form", file=file, tensor=tensor.name, expected=expected, by=source, found=found)]


def _find_foreign_tensors(
    parts_by_tensor: dict[str, list[CheckedPart]], known_names: Collection[str]
) -> list[Note]:
    return [
        note("foreign", file=places[0].entry.stored.file, tensor=name)
        for name, places in parts_by_tensor.items()
        if name not in known_names
    ]


def _compare_part_headers_with_source(
    manifest: Manifest, parts_by_tensor: dict[str, list[CheckedPart]]
) -> list[Note]:
    try:
        files = read_source_safetensors_headers(manifest)
    except (DataError, OSError) as error:
        return [note("unreadable", error=str(error))]
    known = {name: listed.file for listed in manifest.files for name in listed.tensors or ()}
    problems = [
        note("absent", file=file, tensor=name) for name, file in known.items() if name not in parts_by_tensor
    ]
    for file in files:
        for tensor in file.tensors:
            known[tensor.name] = file.path.name
            if tensor.name in parts_by_tensor:
                problems += _check_dtype_and_shape(
                    parts_by_tensor[tensor.name][0], tensor, f"by {file.path.name}"
                )
            else:
                problems.append(note("absent", file=file.path.name, tensor=tensor.name))
    return problems + (_find_foreign_tensors(parts_by_tensor, known) if known else [])


def _find_wrong_manifest_totals(
    manifest: Manifest, checked_parts: list[CheckedPart], parts_by_tensor: dict[str, list[CheckedPart]]
) -> list[Note]:
    stored = [tensor for part in checked_parts for tensor in part.tensors.values()]
    unique = [places[0].tensors[name] for name, places in parts_by_tensor.items()]
    actual = vars(Totals.from_tensors(unique, stored))
    return [
        note("other_total", file=MANIFEST, key=key, expected=listed, found=actual[key])
        for key, listed in vars(manifest.totals).items()
        if listed != actual[key]
    ]


# ------------------------------------------------------------------------------------------- source


def find_differences_from_source(
    manifest: Manifest,
    checked_parts: list[CheckedPart],
    checkpoint: Checkpoint,
    check_level: str,
    report_progress: ProgressCallback,
) -> list[Note]:
    """Compare the parts with their source checkpoint tensor by tensor, and return the differences."""
    parts_of, problems = group_parts_by_tensor(checked_parts), list[Note]()
    for tensor in checkpoint.tensors:
        if tensor.name in parts_of:
            problems += _compare_source_tensor_with_parts(
                tensor, parts_of[tensor.name], check_level, report_progress
            )
        else:
            problems.append(note("absent_of_source", file=tensor.file.name, tensor=tensor.name))
            report_progress(tensor.nbytes)
    problems += _find_foreign_tensors(parts_of, {tensor.name for tensor in checkpoint.tensors})
    companions = {path.name: path for path in checkpoint.companions}
    for listed in manifest.companions:
        path = companions.get(listed.file)
        if path is None:
            problems.append(note("source_lacks", file=listed.file))
        elif (
            digest := file_io.hash_file(path, file_io.parse_digest_algorithm(str(listed.digest)))
        ) != listed.digest:
            expected = listed.digest
            problems.append(note("other_than_source", file=listed.file, expected=expected, found=digest))
    return problems


def _compare_source_tensor_with_parts(
    tensor: TensorLocation, parts: list[CheckedPart], check_level: str, report_progress: ProgressCallback
) -> list[Note]:
    digests: dict[str, str] = {}
    problems = []
    for part in parts:
        other, listed = (
            _check_dtype_and_shape(part, tensor, "as in the source"),
            part.digests.get(tensor.name),
        )
        problems += other
        if other or check_level == "quick" or listed is None:
            continue
        algorithm = file_io.parse_digest_algorithm(listed)
        if algorithm not in digests:
            digests[algorithm] = file_io.hash_pieces(
                file_io.read_tensor_pieces(tensor), algorithm, report_progress
            )
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
