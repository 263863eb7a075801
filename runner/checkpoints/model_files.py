"""Which files decide what a model says: the one list for a job's identity and for what a download fetches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

WEIGHTS = ("*.safetensors", "*.bin")
OTHERS = (  # configs, tokenizers, chat templates, code
    *("*.json", "*.jinja", "*.txt", "*.py"),
    *("*.model", "*.model.v*", "*.tiktoken", "*.spm", "*.bpe", "*.codes", "*.vocab", "*.tokenizer"),
)
HUB = (*WEIGHTS, *OTHERS)
LOCAL = (*HUB, "*.pth", "*.gguf")
TEMPLATES = "additional_chat_templates"  # the one subfolder that transformers reads itself
# what transformers takes from the folder of a .gguf file, before what the file itself says
BESIDE_GGUF = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "generation_config.json", f"{TEMPLATES}/*.jinja"),
)
SPLIT_MANIFEST, SPLIT_FORMAT = "manifest.json", "runner-split"  # lies beside the parts of a split, which are no model
NAME_CODE = ("config.json", "tokenizer_config.json")  # the files whose auto_map transformers follows


def wanted(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file, named from the model's folder, is one of a model's; in subfolders: templates and code alone."""
    *folders, file = name.split("/")
    if "\\" in name or any(part.startswith(".") or not part for part in (*folders, file)):
        return False  # hidden, or a name that a listing has made up to lead out of the folder
    inside = file.endswith(".py") or (folders == [TEMPLATES] and file.endswith(".jinja"))
    return (inside or not folders) and any(fnmatchcase(file, one) for one in patterns)


def of_folder(folder: Path) -> dict[str, Path]:
    """Return a model's files by name; code in subfolders only where the model brings code of its own."""
    deep = folder.rglob("*.py") if any(True for _ in code_references(folder)) else ()
    paths = (*folder.glob("*"), *folder.glob(f"{TEMPLATES}/*"), *deep)
    found = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: found[name] for name in sorted(found) if wanted(name, LOCAL) and found[name].is_file()}


def of_gguf(file: Path) -> dict[str, Path]:
    """Return a .gguf file and what transformers takes beside it."""
    beside = sorted(path for one in BESIDE_GGUF for path in file.parent.glob(one) if path.is_file())
    return {"model.gguf": file} | {path.relative_to(file.parent).as_posix(): path for path in beside}


def code_references(folder: Path) -> Iterator[str]:
    """Yield what auto_map names: FILE.CLASS, or OWNER/NAME--FILE.CLASS in another repository."""
    for name in NAME_CODE:
        try:
            named: Any = json.loads((folder / name).read_text(encoding="utf-8"))["auto_map"]
            values = list(named.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # there is none, or who reads the file for itself says what is wrong with it
        for value in values:
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


def other_repositories(folder: Path) -> list[str]:
    """Return the repositories that a model takes code from besides its own."""
    return sorted({one.partition("--")[0] for one in code_references(folder) if "--" in one})
