"""Lists and hashes the files that determine a model's answers. Only these files are downloaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from runner_base import replace_text_file_atomically
from runner_base.texts import read_json_cache
from runner_engine.checkpoints.file_io import hash_file_sha256

WEIGHTS = ("*.safetensors", "*.bin")
OTHERS = (  # configs, tokenizers, chat templates, code
    *("*.json", "*.jinja", "*.txt", "*.py"),
    *("*.model", "*.model.v*", "*.tiktoken", "*.spm", "*.bpe", "*.codes", "*.vocab", "*.tokenizer"),
)
HUB = (*WEIGHTS, *OTHERS)
LOCAL = (*HUB, "*.pth", "*.gguf")
TEMPLATES = "additional_chat_templates"  # the one subfolder that transformers reads itself
# files that transformers reads beside a .gguf file; they have precedence over the .gguf file
BESIDE_GGUF = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "generation_config.json", f"{TEMPLATES}/*.jinja"),
)
GGUF_PART = re.compile(r"(?P<start>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# beside the parts of a split, which are not a model
SPLIT_MANIFEST, SPLIT_FORMAT = ("manifest.json", "runner-split")
# their auto_map names code that transformers loads
AUTO_MAP_FILES = ("config.json", "tokenizer_config.json")


def is_model_file(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file belongs to the model. Subfolders contribute only chat templates and code."""
    *folders, file = name.split("/")
    if "\\" in name or any(part.startswith(".") or not part for part in (*folders, file)):
        return False  # hidden, or a hostile name that leads out of the folder
    inside = file.endswith(".py") or (folders == [TEMPLATES] and file.endswith(".jinja"))
    return (inside or not folders) and any(fnmatchcase(file, pattern) for pattern in patterns)


def list_model_files(folder: Path) -> dict[str, Path]:
    """Return the files of a model folder by name. Includes code in subfolders if the model uses
    custom code.
    """
    deep = folder.rglob("*.py") if any(True for _ in iter_code_references(folder)) else ()
    paths = (*folder.glob("*"), *folder.glob(f"{TEMPLATES}/*"), *deep)
    by_name = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: by_name[name]
        for name in sorted(by_name)
        if is_model_file(name, LOCAL) and by_name[name].is_file()
    }


def list_gguf_files(file: Path) -> dict[str, Path]:
    """Return the paths of a .gguf file and of its folder's tokenizer and template files, keyed by file name."""
    beside = sorted(path for one in BESIDE_GGUF for path in file.parent.glob(one) if path.is_file())
    return {"model.gguf": file} | {path.relative_to(file.parent).as_posix(): path for path in beside}


def list_gguf_parts(file: Path) -> list[Path]:
    """List all parts of a split .gguf file that exist, or the file itself if it is not split."""
    part = GGUF_PART.fullmatch(file.name)
    if part is None:
        return [file]
    siblings = (
        file.with_name(f"{part['start']}-{number:05}-of-{part['count']}.gguf")
        for number in range(1, int(part["count"]) + 1)
    )
    return [path for path in siblings if path.is_file()]


def iter_code_references(folder: Path) -> Iterator[str]:
    """Yield the custom classes in a model's configs: FILE.CLASS, or OWNER/NAME--FILE.CLASS in
    another repository.
    """
    for name in AUTO_MAP_FILES:
        try:
            auto_map: Any = json.loads((folder / name).read_text(encoding="utf-8"))["auto_map"]
            values = list(auto_map.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # there is none, or the code that needs the file reports the damage
        for value in values:
            yield from (
                one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)
            )


def list_code_repositories(folder: Path) -> list[str]:
    """List the other hub repositories from which a model loads custom code."""
    return sorted(
        {
            code_reference.partition("--")[0]
            for code_reference in iter_code_references(folder)
            if "--" in code_reference
        }
    )


def hash_model_files(path: Path, cache_file: Path) -> str:
    """Return a hash of all files in a model folder, or of a .gguf file, on which the model's
    answers depend.
    """
    if path.is_dir():
        return _hash_named_files(list_model_files(path), cache_file)
    other_parts = {part.name: part for part in list_gguf_parts(path) if part.name != path.name}
    return _hash_named_files(list_gguf_files(path) | other_parts, cache_file)


def _hash_named_files(files: dict[str, Path], cache_file: Path) -> str:
    """Hash the names and contents of files. A JSON file caches hashes by path, size, mtime, ctime and inode.

    The ctime reveals an edit in place that keeps the size and resets the mtime.
    """
    known = read_json_cache(cache_file)
    fresh: dict[str, str] = {}
    total = hashlib.sha256()
    for name, file in files.items():
        stat = file.stat()
        key = f"{file.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
        digest = known.get(key) or fresh.setdefault(key, hash_file_sha256(file))
        total.update(f"{name} {digest}\n".encode())
    if fresh:
        # without the cache only time is lost; an unwritable output folder is reported elsewhere
        with suppress(OSError):
            replace_text_file_atomically(cache_file, json.dumps(known | fresh, indent=0))
    return total.hexdigest()
