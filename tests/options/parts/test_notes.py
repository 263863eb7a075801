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
            "no output head and no tied embedding were found by name: the last part has no head",
        ),
        (note("from_bin"), "the source is .bin: task=merge restores the same tensors as safetensors"),
        (
            note("not_copied", files="a.txt"),
            "not copied, because they are neither weights nor configuration: a.txt",
        ),
        (
            note("other_counts", file="f", tensors=2, params=8, found_tensors=1, found_params=4),
            "f: 2 tensors with 8 parameters expected by the manifest, 1 with 4 found",
        ),
        (
            note("other_than_listed", what="dtype", expected="F32", partition="p.json", found="F16", **WHERE),
            "part_0.safetensors: tensor w: dtype F32 expected by p.json, F16 found",
        ),
        (
            note("in_folder", folder="model_files", problem=note("missing", file="config.json")),
            "model_files/config.json: missing",
        ),
        (
            note("copies_differ", what="shape", expected=[1], first="part_1.safetensors", found=[2], **WHERE),
            "part_0.safetensors: tensor w: shape [1] expected as in part_1.safetensors, [2] found",
        ),
        (note("source_lacks", file="vocab.json"), "vocab.json: the source no longer has this file"),
    ],
)
def test_a_fact_has_a_sentence(fact: Note, sentence: str) -> None:
    assert render_note(fact, NOTES) == sentence
