"""Short display names of models and adapters: the hub id, or the most descriptive folder name."""

from __future__ import annotations

import re
from pathlib import Path

# the hub's cache: models--ORG--NAME/snapshots/COMMIT
IN_CACHE = re.compile(r"models--([^/]+)--([^/]+)")
# Folders that say what kind of file is in them, and not which model.
GENERIC = re.compile(
    r"(b?float(16|32|64)|bf16|f?p?(16|32)|f(16|32)|fp[48]|int[48]|nf4|[348][-_]?bits?|i?q\d\w*|(ggml[-_])?models?([-_]\w+)?"
    r"|weights|checkpoints?|ckpts?|final|best|last|latest|merged|adapters?([-_]model)?|lora|main|hf|huggingface|transformers|pytorch"
    r"|safetensors|gguf|base|original|outputs?|out|snapshots?|[0-9a-f]{7,64}|v?\d+(\.\d+)*)",
    re.IGNORECASE,
)
# a state of the model above it
STEP = re.compile(r"(checkpoint|ckpt|step|epoch|iter)[-_]?\d+", re.IGNORECASE)
WEIGHT_FILES = (".gguf", ".pth", ".pt", ".bin", ".safetensors")


def short_model_name(path_or_id: str) -> str:
    """Return the display name of a model, e.g. SmolLM2 for .../SmolLM2/bfloat16.

    A file is named by its own name.
    """
    path = Path(path_or_id).expanduser()
    if not (path.exists() or path.is_absolute() or path_or_id.startswith(".")):
        return path_or_id.rstrip("/")
    path = path.absolute()
    for part in reversed(path.parts):
        if cached := IN_CACHE.fullmatch(part):
            return f"{cached[1]}/{cached[2]}"
    is_file = path.suffix in WEIGHT_FILES
    last = path.stem if is_file else path.name
    if not _is_generic_name(last):
        return path.name
    above = next((part for part in reversed(path.parts[1:-1]) if not _is_generic_name(part)), "")
    if not above:
        return path.name
    return f"{above}/{path.name}" if is_file or STEP.fullmatch(last) else above


def _is_generic_name(name: str) -> bool:
    """Whether a folder or file name does not identify the model, e.g. `checkpoint` or `nf4`."""
    return bool(GENERIC.fullmatch(name) or STEP.fullmatch(name))
