"""Downloads models from the Hugging Face hub into its cache, resumes partial files and verifies checksums.

huggingface_hub's `snapshot_download` restarts an interrupted file and checks only its size. Here a
file grows in `blobs/<checksum>.part`, is continued there by the next process, and becomes
`blobs/<checksum>` only when its content has that checksum. The result is an ordinary cache for
`from_pretrained` and every other tool. huggingface_hub reads the token (HF_TOKEN or its stored
login), which is sent as a header and is not logged.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_token, hf_hub_url, is_offline_mode
from huggingface_hub import errors as hub
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers, silent_tqdm  # type: ignore[attr-defined]  # lazy

from runner_base import ConfigError, Progress, join_first_names
from runner_engine.checkpoints import hub_cache
from runner_engine.checkpoints.hub_cache import COMMIT, FilesByName, HubSnapshot, RepositoryFile

log = logging.getLogger(__name__)

# the base class of the HTTP client's errors, whichever client huggingface_hub uses
TRANSPORT: type[Exception] = hub.HfHubHTTPError.__bases__[0]
# raised for an answer that does not come from a hub
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
# git's SHA-1 of a small file | SHA-256 of a large one
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
RANGE_REFUSED = 416
READ_BYTES = 4 * 2**20


def find_hub_snapshot(
    config_key: str, repo_id: str, revision: str | None, cache_dir: str | None, patterns: Iterable[str]
) -> HubSnapshot:
    """Query the Hugging Face hub for a model's file list. If the hub is unreachable, use the cached files.

    The cache must then contain all files of the model.
    """
    patterns, wanted = tuple(patterns), revision or constants.DEFAULT_REVISION
    try:
        folder_name = repo_folder_name(repo_id=repo_id, repo_type="model")
    except hub.HFValidationError as error:
        raise ConfigError(
            f"not a hub id: {error}", key=config_key, value=repo_id, code="bad_value"
        ) from error
    repo = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().absolute() / folder_name
    commit = hub_cache.read_cached_commit(repo, wanted)
    tree = hub_cache.read_file_list(repo, commit)
    cached = HubSnapshot(
        config_key,
        repo_id,
        wanted,
        commit,
        repo,
        hub_cache.select_matching_repository_files(tree, patterns),
        tree,
    )
    gaps = hub_cache.list_missing_files(cached, patterns) if commit else []
    if commit == wanted and tree and not gaps:
        return cached  # a commit never changes: there is nothing to ask
    try:
        if is_offline_mode():
            raise hub.OfflineModeIsEnabled()
        commit, tree = _query_hub_files(repo_id, revision)
    except (TRANSPORT, OSError, *UNREADABLE) as error:
        usable = commit and cached.folder.is_dir() and not gaps
        if usable and not isinstance(error, hub.RevisionNotFoundError):
            if not is_offline_mode():
                log.warning(
                    "%s=%s: %s: the files in the cache are used",
                    config_key,
                    repo_id,
                    describe_hub_failure(error),
                )
            return replace(cached, files=(), tree={})
        raise _build_hub_rejection_error(cached, error) or _build_hub_unreachable_error(
            cached, gaps, error
        ) from error
    files = hub_cache.select_matching_repository_files(tree, patterns)
    return replace(cached, commit=commit, files=files, tree=tree)


def download_snapshot(snapshot: HubSnapshot) -> None:
    """Download a model's missing files. If this fails, the downloaded data stays in the cache."""
    missing = snapshot.missing_files
    snapshot.check_disk_space()
    _check_hub_token()
    try:
        with Progress(sum(file.size for file in missing), f"download {snapshot.name}", "bytes") as bar:
            meter = _DownloadMeter(bar)
            for file in missing:
                _download_file(snapshot, file, meter)
                meter.finished += file.size
        hub_cache.write_commit_ref(snapshot)
    except (TRANSPORT, OSError) as error:
        raise _build_hub_rejection_error(snapshot, error) or _build_download_interruption_error(
            snapshot, error
        ) from error


@lru_cache(maxsize=64)  # a job asks more than once, and must always get the first answer
def _query_hub_files(repo_id: str, revision: str | None) -> tuple[str, FilesByName]:
    _check_hub_token()
    seconds = constants.HF_HUB_ETAG_TIMEOUT
    info = HfApi(library_name="runner").model_info(
        repo_id, revision=revision, files_metadata=True, timeout=seconds
    )
    if not COMMIT.fullmatch(info.sha or ""):
        raise ValueError("the hub names no commit")
    tree: FilesByName = {}
    for sibling in info.siblings or []:
        entry: dict[str, Any] = {"size": sibling.size, "blob_id": sibling.blob_id}
        if sibling.lfs is not None:
            entry |= {"lfs_sha256": sibling.lfs.sha256, "lfs_size": sibling.lfs.size}
        tree[sibling.rfilename] = entry
    return str(info.sha), tree


@dataclass
class _DownloadMeter:
    """Measures progress and speed of a download."""

    bar: Progress
    finished: int = 0  # bytes of the files that are done
    received: int = 0  # bytes from the network
    started: float = field(default_factory=time.perf_counter)

    def update_download_progress(self, position_in_file: int, num_new_bytes: int) -> None:
        self.received += num_new_bytes
        rate = self.received / max(time.perf_counter() - self.started, 1e-9)
        self.bar.set_position(self.finished + position_in_file, speed=f"{rate / 1e9:.3f} GB/s")


def _open_without_symlinks(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class _PartialFile(FileIO):
    """A partly downloaded file, which is hashed during the download.

    A new download continues at the end of the stored data.
    """

    def __init__(self, path: Path, checksum: str, file_nbytes: int, meter: _DownloadMeter) -> None:
        super().__init__(path, "a+", opener=_open_without_symlinks)
        self._meter = meter
        self._git_head = None if len(checksum) == 64 else b"blob %d\0" % file_nbytes
        self.digest = self._new_digest()
        if self.tell() > file_nbytes:
            self.truncate(0)
        self.seek(0)
        while piece := self.read(READ_BYTES):
            self.digest.update(piece)
        meter.update_download_progress(self.tell(), 0)

    def write(self, data: Any) -> int:
        """Write all data. If the disk is full, the written part remains, and the next download
        continues there.
        """
        rest = memoryview(data)
        while rest:
            count = super().write(rest) or 0
            self.digest.update(rest[:count])
            rest = rest[count:]
        self._meter.update_download_progress(self.tell(), len(data))
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        """Truncate the file to restart the download.

        Called if the server does not continue at the requested byte.
        """
        kept = super().truncate(size)
        assert kept == 0, "only truncation to 0 bytes is supported, because hashing starts at the first byte"
        self.seek(0)
        self.digest = self._new_digest()
        return kept

    def _new_digest(self) -> Any:
        return hashlib.sha256() if self._git_head is None else hashlib.sha1(self._git_head)


def _download_file(snapshot: HubSnapshot, file: RepositoryFile, meter: _DownloadMeter) -> None:
    """Download one file into the cache, unless another process has completed it in the meantime."""
    url = hf_hub_url(snapshot.name, file.name, revision=snapshot.commit)
    about = get_hf_file_metadata(url, library_name="runner", retry_on_errors=True)
    checksum, size = (file.checksum or about.etag or "", file.size if about.size is None else about.size)
    if not CHECKSUM.fullmatch(checksum):
        raise ConfigError(
            f"{_get_hub_host()} sends no checksum for {file.name}, so the download cannot be verified. "
            "Use huggingface.co, or a mirror that sends the hub's checksums (ETag headers)",
            key=snapshot.key,
            value=snapshot.name,
            code="unsupported",
        )
    hub_cache.write_snapshot_file_list(snapshot)
    # as huggingface_hub has it
    lock = snapshot.repo.parent / ".locks" / snapshot.repo.name / f"{checksum}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if not snapshot.get_blob_path(checksum).exists():
            _resume_download(snapshot, file.name, url, checksum, size, meter)
            snapshot.get_blob_path(checksum, ".part").replace(snapshot.get_blob_path(checksum))
        hub_cache.link_file(snapshot, file, checksum)


def _resume_download(
    snapshot: HubSnapshot, file_name: str, url: str, checksum: str, file_nbytes: int, meter: _DownloadMeter
) -> None:
    """Download the missing rest of a file, and verify the checksum of the whole file."""
    part = snapshot.get_blob_path(checksum, ".part")
    if file_nbytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
        raise ConfigError(
            f"{file_name} has {file_nbytes / 1e9:,.0f} GB, more than the hub sends over plain HTTP. "
            f"Run `hf download {snapshot.name}`, which downloads into the same cache",
            key=snapshot.key,
            value=snapshot.name,
            code="too_large",
        )
    with _PartialFile(part, checksum, file_nbytes, meter) as stream:
        start = stream.tell()
        try:
            _download_over_http(url, stream, file_nbytes)
        except hub.HfHubHTTPError as error:
            if error.response.status_code != RANGE_REFUSED or not start:
                raise
            stream.truncate(0)
            _download_over_http(url, stream, file_nbytes)
        os.fsync(stream.fileno())
    if (actual := stream.digest.hexdigest()) != checksum:
        part.unlink()
        before = f" (an earlier run downloaded {start:,} bytes)" if start else ""
        raise ConfigError(
            f"{file_name} is damaged{before}: the checksum is {actual[:12]}... instead of "
            f"{checksum[:12]}.... The file was deleted. Run the same command to download it again",
            key=snapshot.key,
            value=snapshot.name,
            code="damaged",
        )


def _download_over_http(url: str, stream: _PartialFile, file_nbytes: int) -> None:
    # a compressed transfer could not be resumed at a byte of the file
    headers = build_hf_headers(library_name="runner") | {"Accept-Encoding": "identity"}
    # the whole download has one bar
    target, no_bar = (cast(BinaryIO, stream), cast(Any, silent_tqdm))
    http_get(
        url, target, resume_size=stream.tell(), headers=headers, expected_size=file_nbytes, tqdm_class=no_bar
    )


def _check_hub_token() -> None:
    """Raise ConfigError if the hub token contains characters that HTTP headers do not allow.

    The error of the HTTP client would reveal the token.
    """
    if not re.fullmatch(r"[!-~]*", get_token() or ""):
        raise ConfigError(
            "HF_TOKEN (or the hub's stored login) contains invalid characters. Set the token again",
            code="bad_value",
        )


def _build_hub_rejection_error(snapshot: HubSnapshot, error: BaseException) -> ConfigError | None:
    """Return an error with a suggested fix if the hub rejected the request, otherwise None."""
    key, name = snapshot.key, snapshot.name
    if isinstance(error, hub.GatedRepoError):
        return ConfigError(
            "the model is gated. Accept its license on the hub and set HF_TOKEN",
            key=key,
            value=name,
            code="refused",
        )
    if isinstance(error, hub.RevisionNotFoundError):
        where = ("model.revision", snapshot.revision) if key == "model.name" else (key, name)
        return ConfigError(
            f"{name} has no such branch, tag or commit", key=where[0], value=where[1], code="not_found"
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        reason = "the hub has no such model. If the model is private, set an HF_TOKEN with access"
        return ConfigError(
            f"the folder {Path(name).absolute()} does not exist, and {reason}",
            key=key,
            value=name,
            code="not_found",
        )
    if _get_http_status(error) == 401:
        return ConfigError(
            "the hub does not accept HF_TOKEN (or its stored login): renew it, or unset it",
            key=key,
            value=name,
            code="refused",
        )
    return None


def _build_hub_unreachable_error(
    cached: HubSnapshot, missing_files: list[str], error: BaseException
) -> ConfigError:
    """Return the error for an unreachable hub and a model that is not completely cached."""
    key, name, why = cached.key, cached.name, describe_hub_failure(error)
    if not missing_files:
        return ConfigError(
            f"the folder {Path(name).absolute()} does not exist. The model is not in the cache, and {why}",
            key=key,
            value=name,
            code="unreachable",
        )
    return ConfigError(
        f"the cached model in {cached.folder} lacks {join_first_names(missing_files, 5)}, "
        f"and {why}. Run the same command again when the hub is reachable",
        key=key,
        value=name,
        code="unreachable",
    )


def _build_download_interruption_error(snapshot: HubSnapshot, error: BaseException) -> ConfigError:
    key, name, code = snapshot.key, snapshot.name, error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT):
        return ConfigError(
            f"the disk is full ({snapshot.repo}). Free disk space and run the same command to resume the "
            "download, or choose a larger disk with model.cache_dir=FOLDER or HF_HOME",
            key=key,
            value=name,
            code="too_large",
        )
    if code is not None and isinstance(error, OSError):
        where = error.filename or snapshot.repo
        return ConfigError(
            f"cannot write {where} ({error.strerror}). Choose another folder with model.cache_dir=FOLDER",
            key=key,
            value=name,
            code="refused",
        )
    return ConfigError(
        f"the download was interrupted: {describe_hub_failure(error)}. Run the same command to resume",
        key=key,
        value=name,
        code="unreachable",
    )


def describe_hub_failure(error: BaseException) -> str:
    """Describe why the hub did not answer, without printing the request, which contains the token."""
    status = _get_http_status(error)
    if isinstance(error, hub.OfflineModeIsEnabled):
        return "the hub cannot be reached (HF_HUB_OFFLINE=1)"
    if status is not None:
        return f"the hub ({_get_hub_host()}) returned HTTP status {status}"
    if isinstance(error, UNREADABLE):
        return f"the server at {_get_hub_host()} is not a Hugging Face hub"
    if type(error) is OSError:  # raised by http_get itself
        return f"the hub ({_get_hub_host()}) sent more or fewer bytes than announced"
    return f"the hub ({_get_hub_host()}) cannot be reached ({type(error).__name__})"


def _get_http_status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, hub.HfHubHTTPError) else None


def _get_hub_host() -> str:
    return urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2]
