"""Message texts of notes about task=quantize."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.render.notes import Template

NOTES: Mapping[str, Template] = {
    "evaluate": lambda target, is_file: (
        f"evaluate the new model with model=local model.name={target}{' quantization=gguf' * is_file}"
    ),
    "few_pieces": (
        "task.calibration={calibration} has only {pieces} sequences of {tokens} tokens: all of them were used"
    ),
    "evaluation_unread": "task.evaluation: {evaluation} was not checked for overlap with the calibration data: {error}",
    "shared_words": (
        "task.calibration={calibration} shares {words} or more consecutive words with "
        "{alike} of {texts} documents of {evaluation}, such as “{shown}”. Results on these "
        "documents may look too good"
    ),
}
