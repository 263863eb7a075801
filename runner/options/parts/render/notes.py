"""Message templates of the package parts."""

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
    "tied_head": (
        "the first and the last part store {tensors}, because the output head is tied to the embedding"
    ),
    "no_head": "the last part has no output head, because no tensor has the name of an output head",
    "no_whole_layers": (
        "parts of task.strategy=by_type contain no whole layers, so they cannot run as a pipeline"
    ),
    "from_bin": (
        "the source files are .bin files. task=merge will write the same tensors to safetensors files"
    ),
    "shared_bytes": (
        "{tensors} tensors of the source share storage with another tensor. The parts store "
        "each tensor separately"
    ),
    "not_copied": "these files are neither weights nor configuration, so they were not copied: {files}",
    "parts_unchanged": "all parts existed already and are unchanged: nothing was written",
    # merge
    "rounded": "{numbers} weights were rounded, because their dtype cannot represent them exactly",
    "files_existed": "all files existed already: nothing was written",
    "same_tensors": "the {digest} of every tensor matches the source; the format is now safetensors",
    "same_files": "yes: the {digest} of every tensor and header matches the source",
    # problems of a part
    "missing": "{file}: missing",
    "unreadable": "{error}",
    "other_size": "{file}: {expected} bytes expected, {found} found",
    "other_sha256": "{file}: sha256 {expected} expected, {found} found",
    "other_digest": "{file}: {expected} expected, {found} found",
    "other_part_id": "{file}: part_id {expected} expected, {found} found",
    "other_counts": (
        "{file}: the manifest lists {tensors} tensors with {params} parameters, but the file contains "
        "{found_tensors} with {found_params}"
    ),
    "unlisted_tensor": "{file}: tensor {tensor} is not listed in {partition}",
    "missing_tensor": "{file}: tensor {tensor} is missing, although {partition} lists the tensor",
    "other_than_listed": ("{file}: tensor {tensor} has {what} {found}, but {partition} lists {expected}"),
    "other_tensor_digest": "{file}: tensor {tensor} has digest {found}, but {expected} was expected",
    "other_numbers": "{file}: {numbers} of the {params} values of tensor {tensor} differ from the part",
    "in_folder": "{folder}/{problem}",
    # problems of all parts together
    "unchecked": "completeness was not checked, because some files cannot be read: {files}",
    "other_parts": "{file}: tensor {tensor} is in parts {found}, but belongs to parts {expected}",
    "tied_absent": "{file}: tied tensor {tensor} is in none of the parts",
    "absent": "{file}: tensor {tensor} is in none of the parts",
    "copies_differ": "{file}: tensor {tensor} has {what} {found}, but its copy in {first} has {expected}",
    "other_form": "{file}: tensor {tensor} is {found}, but {expected} is expected {by}",
    "foreign": "{file}: tensor {tensor} is not in the source",
    "other_total": "{file}: totals.{key}: {expected} expected, {found} found",
    # problems against the source
    "absent_of_source": "{file}: tensor {tensor} of the source is in none of the parts",
    "source_lacks": "{file}: this file of the source checkpoint no longer exists",
    "other_than_source": "{file}: the source file has digest {found}, but the manifest lists {expected}",
    "other_content": "{file}: tensor {tensor} has {found}, but the source has {expected}",
}
