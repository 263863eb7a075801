"""Message texts of notes about task=quantize."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.render.notes import Template

NOTES: Mapping[str, Template] = {
    "evaluate": lambda target, is_file: (
        f"to evaluate the new model, use model=local model.name={target}{' quantization=gguf' * is_file}"
    ),
    "few_pieces": (
        "task.calibration={calibration} has only {pieces} sequences of {tokens} tokens, fewer than "
        "task.sequences requests"
    ),
    "evaluation_unread": "task.check_overlap_with: {evaluation} was not checked for overlap with the calibration "
    "data: {error}",
    "shared_words": (
        "{alike} of {texts} documents of {evaluation} share {words} or more consecutive words "
        "with task.calibration={calibration}, such as “{shown}”. Results on these "
        "documents may be too optimistic"
    ),
}
