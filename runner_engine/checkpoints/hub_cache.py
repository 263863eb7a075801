"""The Hugging Face cache on disk: which files a model needs, and which of them are cached.

CACHE/models--OWNER--NAME/blobs/<checksum>           contents; <checksum>.part during a download
                          snapshots/<commit>/FILE    links to them: the folder of a model
                          refs/<revision>            the commit of a branch or tag, as last queried
                          trees/<commit>.json        a commit's files with sizes and checksums
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner_base import replace_text_file_atomically
from runner_base.files import replace_atomically
from runner_engine.checkpoints import file_io, model_files

COMMIT = re.compile(r"[0-9a-f]{40}")
TREE_FORMAT = 1
WEIGHTS = (".safetensors", ".bin")
MAIN = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors")
# the same weights again
SPARE = re.compile(r"(pytorch_model|adapter_model).*\.bin.*|consolidated.*\.safetensors")

FilesByName = dict[str, dict[str, Any]]  # file -> size, blob_id, and of a large file lfs_size, lfs_sha256


@dataclass(frozen=True)
class RepositoryFile:
    """A file of a hub repository, with its size and checksum.

    The cache names the file's blob by the checksum. The checksum is empty if the hub's listing
    has none.
    """

    name: str
    size: int
    checksum: str


@dataclass(frozen=True)
class HubSnapshot:
    """The files of a hub model at one revision, and their location in the cache."""

    key: str
    name: str
    revision: str
    commit: str
    repo: Path
    files: tuple[RepositoryFile, ...]
    tree: FilesByName = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.repo / "snapshots" / self.commit

    @property
    def missing_files(self) -> list[RepositoryFile]:
        """The files that must be downloaded, small ones first."""
        absent = [file for file in self.files if not (self.folder / file.name).exists()]
        return sorted(absent, key=lambda file: (file.name.endswith(WEIGHTS), file.name))

    @property
    def missing_bytes(self) -> int:
        return sum(max(0, file.size - self._cached_bytes(file)) for file in self.missing_files)

    def check_disk_space(self) -> None:
        fix = (
            "free disk space, choose a larger disk with model.cache_dir=FOLDER or HF_HOME, "
            "or use a smaller model"
        )
        file_io.check_user_disk_space(
            self.repo.parent, self.missing_bytes, f"{self.key}={self.name}: the download", fix
        )

    def get_blob_path(self, checksum: str, suffix: str = "") -> Path:
        """Return the path of a file's content in the cache. The suffix is `.part` during a download."""
        return self.repo / "blobs" / f"{checksum}{suffix}"

    def _cached_bytes(self, file: RepositoryFile) -> int:
        places = [self.get_blob_path(file.checksum, end) for end in ("", ".part") if file.checksum]
        return next((place.stat().st_size for place in places if place.exists()), 0)


def select_matching_repository_files(
    listing: FilesByName, patterns: Iterable[str]
) -> tuple[RepositoryFile, ...]:
    """Select the files of a hub repository that a model needs.

    Of several weight formats, only one is selected.
    """
    patterns = tuple(patterns)
    has_main = any(MAIN.fullmatch(name) for name in listing)
    names = [name for name in listing if model_files.is_model_file(name, patterns)]
    return tuple(
        _parse_repository_file(name, listing[name])
        for name in names
        if not (has_main and SPARE.fullmatch(name))
    )


def _parse_repository_file(name: str, entry: dict[str, Any]) -> RepositoryFile:
    size, checksum = (
        entry.get("lfs_size") or entry.get("size"),
        entry.get("lfs_sha256") or entry.get("blob_id"),
    )
    return RepositoryFile(name, int(size or 0), str(checksum or ""))


def write_snapshot_file_list(snapshot: HubSnapshot) -> None:
    """Store a snapshot's file list in the cache. Later runs use it to check whether the snapshot is
    complete.
    """
    for folder in (snapshot.repo / "blobs", snapshot.folder):
        folder.mkdir(parents=True, exist_ok=True)
    tree = json.dumps({"format_version": TREE_FORMAT, "files": snapshot.tree})
    replace_text_file_atomically(_file_list_path(snapshot.repo, snapshot.commit), tree)
    if not (snapshot.repo / "refs" / snapshot.revision).exists():
        # a ref to an older, complete snapshot stays until the new one is complete
        write_commit_ref(snapshot)


def write_commit_ref(snapshot: HubSnapshot) -> None:
    if snapshot.revision != snapshot.commit:
        replace_text_file_atomically(snapshot.repo / "refs" / snapshot.revision, snapshot.commit)


def link_file(snapshot: HubSnapshot, file: RepositoryFile, checksum: str) -> None:
    blob = snapshot.get_blob_path(checksum)
    replace_atomically(
        snapshot.folder / file.name, lambda path: path.symlink_to(os.path.relpath(blob, path.parent))
    )


def read_cached_commit(repo: Path, revision: str) -> str:
    """Return the cached commit of a revision, or an empty string if the cache does not have the revision."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        commit = (repo / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return ""
    return commit if COMMIT.fullmatch(commit) else ""


def read_file_list(repo: Path, commit: str) -> FilesByName:
    """Return the cached file list of a repository at a commit. Empty if the cache has none."""
    try:
        stored = json.loads(_file_list_path(repo, commit).read_text())
        return dict(stored["files"]) if stored["format_version"] == TREE_FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def list_missing_files(cached: HubSnapshot, patterns: Iterable[str]) -> list[str]:
    """List the files that are missing in a cached snapshot, according to its file list or shard index.

    Without these lists, the absence of weights counts.
    """
    if cached.tree or not cached.folder.is_dir():
        return [file.name for file in cached.missing_files]
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


def _file_list_path(repo: Path, commit: str) -> Path:
    return repo / "trees" / f"{commit}.json"
