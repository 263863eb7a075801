"""The hub's cache on disk, in huggingface_hub's layout: which files a snapshot needs, and which are there.

CACHE/models--OWNER--NAME/blobs/<checksum>           contents; <checksum>.part while one is being fetched
                          snapshots/<commit>/FILE    links to them: the folder that a model is read from
                          refs/<revision>            the commit of a branch or tag when the hub was last asked
                          trees/<commit>.json        the files of the repository at a commit, with sizes and checksums
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner_base import replace_text
from runner_base.files import replace_with
from runner_engine.checkpoints import byteio, model_files

COMMIT = re.compile(r"[0-9a-f]{40}")
TREE_FORMAT = 1
WEIGHTS = (".safetensors", ".bin")
MAIN = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors")
# the same weights again
SPARE = re.compile(r"(pytorch_model|adapter_model).*\.bin.*|consolidated.*\.safetensors")

Tree = dict[str, dict[str, Any]]  # file -> size, blob_id, and of a large file lfs_size, lfs_sha256


@dataclass(frozen=True)
class File:
    """A file of a repository; its checksum, which also names its blob, is empty if the listing has
    none."""

    name: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Snapshot:
    """The files of a hub id at a revision, and their place in the cache."""

    key: str
    name: str
    revision: str
    commit: str
    repo: Path
    files: tuple[File, ...]
    tree: Tree = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder that a model is read from."""
        return self.repo / "snapshots" / self.commit

    @property
    def missing(self) -> list[File]:
        """The files that have to be fetched, small ones first."""
        absent = [file for file in self.files if not (self.folder / file.name).exists()]
        return sorted(absent, key=lambda file: (file.name.endswith(WEIGHTS), file.name))

    @property
    def missing_bytes(self) -> int:
        """How much has to be fetched, without what an interrupted download has fetched."""
        return sum(max(0, file.size - self._cached_bytes(file)) for file in self.missing)

    def check_room(self) -> None:
        """Reject a download that does not fit on the disk."""
        fix = "make room, name a larger disk with model.cache_dir=FOLDER or HF_HOME, or use a smaller model"
        byteio.require_room(
            self.repo.parent, self.missing_bytes, f"{self.key}={self.name}: the download", fix
        )

    def blob(self, checksum: str, end: str = "") -> Path:
        """Return the path of a file's content; it ends in `.part` while it is being fetched."""
        return self.repo / "blobs" / f"{checksum}{end}"

    def _cached_bytes(self, file: File) -> int:
        places = [self.blob(file.checksum, end) for end in ("", ".part") if file.checksum]
        return next((place.stat().st_size for place in places if place.exists()), 0)


def pick_files(tree: Tree, patterns: Iterable[str]) -> tuple[File, ...]:
    """Pick the files of a repository that a model needs, without other copies of the weights."""
    patterns = tuple(patterns)
    has_main = any(MAIN.fullmatch(name) for name in tree)
    names = [name for name in tree if model_files.wanted(name, patterns)]
    return tuple(_file(name, tree[name]) for name in names if not (has_main and SPARE.fullmatch(name)))


def _file(name: str, entry: dict[str, Any]) -> File:
    size, checksum = (
        entry.get("lfs_size") or entry.get("size"),
        entry.get("lfs_sha256") or entry.get("blob_id"),
    )
    return File(name, int(size or 0), str(checksum or ""))


def begin(snapshot: Snapshot) -> None:
    """Store the list of the snapshot's files, so that later runs can tell whether it is
    complete."""
    for folder in (snapshot.repo / "blobs", snapshot.folder):
        folder.mkdir(parents=True, exist_ok=True)
    tree = json.dumps({"format_version": TREE_FORMAT, "files": snapshot.tree})
    replace_text(_tree_path(snapshot.repo, snapshot.commit), tree)
    if not (snapshot.repo / "refs" / snapshot.revision).exists():
        # a ref to an older, complete snapshot stays until the new one is complete
        write_ref(snapshot)


def write_ref(snapshot: Snapshot) -> None:
    """Store the commit of the branch or tag."""
    if snapshot.revision != snapshot.commit:
        replace_text(snapshot.repo / "refs" / snapshot.revision, snapshot.commit)


def link(snapshot: Snapshot, file: File, checksum: str) -> None:
    """Link a file whose content is in the cache into the snapshot."""
    blob = snapshot.blob(checksum)
    replace_with(
        snapshot.folder / file.name, lambda path: path.symlink_to(os.path.relpath(blob, path.parent))
    )


def cached_commit(repo: Path, revision: str) -> str:
    """Return the commit of a revision when the hub was last asked; empty if the cache does not know
    it."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        commit = (repo / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return ""
    return commit if COMMIT.fullmatch(commit) else ""


def read_tree(repo: Path, commit: str) -> Tree:
    """Return the files of a repository at a commit; nothing if the cache has no listing."""
    try:
        stored = json.loads(_tree_path(repo, commit).read_text())
        return dict(stored["files"]) if stored["format_version"] == TREE_FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def gaps(cached: Snapshot, patterns: Iterable[str]) -> list[str]:
    """Return what a cached snapshot lacks, by its listing or its index of shards, or weights if it
    has none."""
    if cached.tree or not cached.folder.is_dir():
        return [file.name for file in cached.missing]
    if not any(pattern.endswith(WEIGHTS) for pattern in patterns):
        return []
    present = {path.name for path in cached.folder.iterdir() if path.exists()}
    shards: set[str] = set()
    for index in cached.folder.glob("*.index.json"):
        try:
            shards |= set(map(str, json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # reading the model reports a damaged index
    if shards:
        return sorted(shards - present)
    return [] if any(name.endswith(WEIGHTS) for name in present) else ["the weights (*.safetensors or *.bin)"]


def _tree_path(repo: Path, commit: str) -> Path:
    return repo / "trees" / f"{commit}.json"
