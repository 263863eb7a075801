"""Message texts of notes about task=quantize."""

from __future__ import annotations

from collections.abc import Mapping

from runner_base.render.notes import Template

NOTES: Mapping[str, Template] = {
    "evaluate": lambda target, is_file: (
        f"evaluate it by model=local model.name={target}{' quantization=gguf' * is_file}"
    ),
    "few_pieces": (
        "task.calibration={calibration} has only {pieces} pieces of {tokens} tokens: all of them were read"
    ),
    "evaluation_unread": "task.evaluation: {evaluation} was not compared with the calibration: {error}",
    "shared_words": (
        "task.calibration={calibration} shares {words} words in a row or more with {alike} of {texts} texts of "
        "{evaluation}, such as “{shown}”: what is measured on them may look too good"
    ),
}
