"""The sentences of notes and problems that no job of the other tests has."""

from __future__ import annotations

import pytest

from runner.options.parts.render.notes import NOTES
from runner_base.notes import Note, note
from runner_base.render.notes import render_note

WHERE = {"file": "part_0.safetensors", "tensor": "w"}


@pytest.mark.parametrize(
    ("fact", "sentence"),
    [
        (
            note("no_head"),
            "the last part has no output head, because no tensor has the name of an output head",
        ),
        (
            note("from_bin"),
            "the source files are .bin files. task=merge will write the same tensors to safetensors files",
        ),
        (
            note("not_copied", files="a.txt"),
            "these files are neither weights nor configuration, so they were not copied: a.txt",
        ),
        (
            note("other_counts", file="f", tensors=2, params=8, found_tensors=1, found_params=4),
            "f: the manifest lists 2 tensors with 8 parameters, but the file contains 1 with 4",
        ),
        (
            note("other_than_listed", what="dtype", expected="F32", partition="p.json", found="F16", **WHERE),
            "part_0.safetensors: tensor w has dtype F16, but p.json lists F32",
        ),
        (
            note("in_folder", folder="model_files", problem=note("missing", file="config.json")),
            "model_files/config.json: missing",
        ),
        (
            note("copies_differ", what="shape", expected=[1], first="part_1.safetensors", found=[2], **WHERE),
            "part_0.safetensors: tensor w has shape [2], but its copy in part_1.safetensors has [1]",
        ),
        (
            note("source_lacks", file="vocab.json"),
            "vocab.json: this file of the source checkpoint no longer exists",
        ),
    ],
)
def test_a_fact_has_a_sentence(fact: Note, sentence: str) -> None:
    assert render_note(fact, NOTES) == sentence
