"""The embedded model with odd tokenizers: a pattern with too many ways to match, tokens that have
no embedding."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from checkpoints import change_tokenizer

from runner_engine.embedded import MODEL_DIR

BAD = "x" * 40
SAID = "cannot encode this text (the library gave up: Onig: Regex search error: retry-limit-in-match over): "
EXTRA, FAR = "<extra>", "<far>"
IDS = {EXTRA: 896, FAR: 500_000_000}


def with_tokenizer(folder: Path, **steps: Any) -> Path:
    shutil.copytree(MODEL_DIR, folder)
    change_tokenizer(folder, lambda tokenizer: tokenizer.update(steps))
    return folder


def save_runaway(folder: Path) -> Path:
    """Save the embedded model with a pattern that tries 2 ** N ways on N letters x."""
    split = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    pre = {"type": "Sequence", "pretokenizers": [split, level]}
    return with_tokenizer(folder, pre_tokenizer=pre)


def save_beyond(folder: Path) -> Path:
    """Save the embedded model with two tokens for which it has no embedding."""
    shutil.copytree(MODEL_DIR, folder)

    def add(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["vocab"] |= IDS
        tokenizer["added_tokens"] += [added(token, number) for token, number in IDS.items()]

    change_tokenizer(folder, add)
    return folder


def added(token: str, number: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": token, **plain}
