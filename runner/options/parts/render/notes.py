"""Message texts of notes about split checkpoints, and of problems that a check of parts has found."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base import format_count
from runner_base.render.notes import Template

NOTES: Mapping[str, Template] = {
    "slower_than_whole": lambda processes, cores: (
        f"{processes} processes of a pipeline share the {format_count(cores, 'core')} "
        "of this machine, and each waits for "
        "the others: the whole model fits here and is usually faster (task=merge puts it together, or model.stages=1)"
    ),
    # split
    "tied_head": "the output head is tied to the embedding: {tensors} is stored in the first and in the last part",
    "no_head": "no output head and no tied embedding were found by name: the last part has no head",
    "no_whole_layers": (
        "parts by type contain no whole layers: they can be merged and verified, but not run as a pipeline"
    ),
    "from_bin": "the source is .bin: task=merge restores the same tensors as safetensors",
    "shared_bytes": (
        "{tensors} tensors of the source share storage with another tensor: each is written "
        "under its own name"
    ),
    "not_copied": "not copied, because they are neither weights nor configuration: {files}",
    "parts_unchanged": "all parts existed already and are unchanged: nothing was written",
    # merge
    "rounded": "{numbers} numbers were rounded to their dtype",
    "files_existed": "all files existed already: nothing was written",
    "same_tensors": "every tensor has the same {digest} as in the source; the .bin file is now safetensors",
    "same_files": "yes: every tensor has the same {digest} as in the source, and so has every header",
    # problems of a part
    "missing": "{file}: missing",
    "unreadable": "{error}",
    "other_size": "{file}: {expected} bytes expected, {found} found",
    "other_sha256": "{file}: sha256 {expected} expected, {found} found",
    "other_digest": "{file}: {expected} expected, {found} found",
    "other_part_id": "{file}: part_id {expected} expected, {found} found",
    "other_counts": (
        "{file}: {tensors} tensors with {params} parameters expected by the manifest, {found_tensors} with "
        "{found_params} found"
    ),
    "unlisted_tensor": "{file}: tensor {tensor}: not listed in {partition}",
    "missing_tensor": "{file}: tensor {tensor}: missing, although {partition} lists it",
    "other_than_listed": (
        "{file}: tensor {tensor}: {what} {expected} expected by {partition}, {found} found"
    ),
    "other_tensor_digest": "{file}: tensor {tensor}: {expected} expected, {found} found",
    "other_numbers": "{file}: tensor {tensor}: {numbers} of {params} numbers differ from those of the part",
    "in_folder": "{folder}/{problem}",
    # problems of all parts together
    "unchecked": "completeness was not checked, because some files cannot be read: {files}",
    "other_parts": "{file}: tensor {tensor}: in parts {expected} expected, found in {found}",
    "tied_absent": "{file}: tied tensor {tensor} is in none of the parts",
    "absent": "{file}: tensor {tensor} is in none of the parts",
    "copies_differ": "{file}: tensor {tensor}: {what} {expected} expected as in {first}, {found} found",
    "other_form": "{file}: tensor {tensor}: {expected} expected {by}, {found} found",
    "foreign": "{file}: tensor {tensor} is not in the source",
    "other_total": "{file}: totals.{key}: {expected} expected, {found} found",
    # problems against the source
    "absent_of_source": "{file}: tensor {tensor} of the source is in none of the parts",
    "source_lacks": "{file}: the source no longer has this file",
    "other_than_source": "{file}: {expected} expected of the source's, {found} found",
    "other_content": "{file}: tensor {tensor}: {expected} expected as in the source, {found} found",
}
