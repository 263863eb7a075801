"""A hub on 127.0.0.1: one repository with its listing, its files with checksums and byte ranges,
and ways to misbehave.

The same files are there as a model and as a data set.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

LARGE = (".safetensors", ".bin")  # stored with LFS: their ETag is a SHA-256
STALL_S = 600  # longer than any test waits, also on a busy machine


@dataclass(frozen=True)
class Seen:
    """A request that has arrived."""

    method: str
    path: str
    range: str | None
    token: str | None
    sent: list[int] = field(default_factory=list)  # the numbers of bytes of the body that were sent


def checksum(name: str, data: bytes) -> str:
    return (
        hashlib.sha256(data) if name.endswith(LARGE) else hashlib.sha1(b"blob %d\0" % len(data) + data)
    ).hexdigest()


class Hub:
    """`with Hub(files) as hub:` serves org/open; org/gated and org/private answer as such."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.seen: list[Seen] = []
        self.stall_after: int | None = None  # bytes of a large file, then nothing until `go_on` is set
        self.go_on = threading.Event()
        self.ignores_ranges = False
        self.sends: dict[str, bytes] = {}  # instead of a file's content
        self.redirects_to: str | None = None  # the server of large files
        self.token: str | None = None  # without it the repository is not found
        self.status = 200

    def __enter__(self) -> Hub:
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def gets(self, name: str) -> list[Seen]:
        """Return the requests for a file's content."""
        return [seen for seen in self.seen if seen.method == "GET" and seen.path.endswith(f"/{name}")]

    def answer(self, http: http.server.BaseHTTPRequestHandler) -> None:
        path = http.path.split("?")[0]
        seen = Seen(http.command, path, http.headers["Range"], http.headers["Authorization"])
        self.seen.append(seen)
        status, headers, data = self.reply(path, seen)
        http.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | headers).items():
            http.send_header(key, value)
        http.end_headers()
        if http.command == "HEAD":
            return
        stop = len(data) if self.stall_after is None or not path.endswith(LARGE) else self.stall_after
        try:
            for piece in (data[:stop], data[stop:]):
                seen.sent.append(len(piece))  # before the client can have it, and a test can look
                http.wfile.write(piece)
                http.wfile.flush()
                if stop < len(data):
                    self.go_on.wait()
        except OSError:
            http.close_connection = True  # the client is gone

    def reply(self, path: str, seen: Seen) -> tuple[int, dict[str, str], bytes]:
        if self.status != 200:
            return self.status, {}, b""
        if "/org/gated" in path and "/resolve/" in path:  # the listing of a gated model is open
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if "/org/private" in path or (self.token and seen.token != f"Bearer {self.token}"):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if match := re.fullmatch(r"/api/models/org/\w+(?:/revision/(\w+))?", path):
            if match[1] not in (None, "main", self.commit):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            return (
                200,
                {},
                json.dumps({"id": "org/open", "sha": self.commit, "siblings": self.listing()}).encode(),
            )
        if re.fullmatch(r"/api/datasets/org/\w+(?:/revision/\w+)?", path):
            return (
                200,
                {},
                json.dumps({"id": "org/open", "sha": self.commit, "siblings": self.listing()}).encode(),
            )
        if match := re.fullmatch(r"/api/datasets/org/\w+/tree/\w+(?:/(\w+))?", path):
            return 200, {}, json.dumps(self.tree(match[1])).encode()
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name not in self.files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        etag = {"ETag": f'"{checksum(name, self.files[name])}"', "X-Repo-Commit": self.commit}
        if self.redirects_to and name.endswith(LARGE):
            linked = {"X-Linked-ETag": etag["ETag"], "X-Linked-Size": str(len(self.files[name]))}
            return 302, etag | linked | {"Location": self.redirects_to + path}, b""
        data = self.sends.get(name, self.files[name])
        if seen.range is None or self.ignores_ranges:
            return 200, etag, data
        begin = int(seen.range.removeprefix("bytes=").split("-")[0])
        return (206, etag | {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}, data[begin:])

    def listing(self) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = []
        for name, data in self.files.items():
            entries.append({"rfilename": name, "size": len(data), "blobId": checksum("", data)})
            if name.endswith(LARGE):
                entries[-1]["lfs"] = {"sha256": checksum(name, data), "size": len(data), "pointerSize": 130}
        return entries

    def tree(self, folder: str | None) -> list[dict[str, object]]:
        """Return the files and folders directly in a folder."""
        head = f"{folder}/" if folder else ""
        inside = {name.removeprefix(head): data for name, data in self.files.items() if name.startswith(head)}
        folders = {name.partition("/")[0] for name in inside if "/" in name}
        entries: list[dict[str, object]] = [
            {"type": "directory", "path": f"{head}{name}", "size": 0, "oid": checksum("", name.encode())}
            for name in sorted(folders)
        ]
        return entries + [
            {"type": "file", "path": f"{head}{name}", "size": len(data), "oid": checksum("", data)}
            for name, data in inside.items()
            if "/" not in name
        ]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process with its own cache; huggingface_hub reads it at
    import."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    # the machine may be busy
    patient = dict.fromkeys(("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"), "600")
    return bare | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"} | patient | more


def locating(folder: Path, name: str, revision: str | None = None, **more: str) -> subprocess.Popen[str]:
    """Start a process that fetches a model and prints its path, or the error."""
    program = f"""
from runner_engine.settings.model import LocalModelConfig
from runner_base.errors import ConfigError
from runner_engine.checkpoints.locating import locate_model
try:
    print("at", locate_model(LocalModelConfig(name={name!r}, revision={revision!r})))
except ConfigError as error:
    print("error:", error)
"""
    env, pipe = environment(folder, **more), subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", program], env=env, cwd=folder, text=True, stdout=pipe, stderr=pipe
    )


def locate(folder: Path, name: str, revision: str | None = None, **more: str) -> str:
    """Return the path of a model, or the error, from a process of its own."""
    process = locating(folder, name, revision, **more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()
