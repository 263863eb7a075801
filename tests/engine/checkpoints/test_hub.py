from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import mount_tmpfs
from hub_standin import Hub, checksum, environment, locate, locating

from runner_engine.checkpoints import hub_cache
from runner_engine.embedded import MODEL_DIR

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

CONFIG = b'{"model_type": "llama"}'
BIG = random.Random(0).randbytes(25 * 2**20)
STALL = 22 * 2**20  # between the first and the last pieces that huggingface_hub writes


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({"config.json": CONFIG, "model.safetensors": b"w" * 5000}) as served:
        yield served


@pytest.fixture
def big_hub() -> Iterator[Hub]:
    with Hub({"config.json": CONFIG, "model.safetensors": BIG}) as served:
        yield served


def repo(folder: Path, name: str = "org/open") -> Path:
    return folder / "hf" / "hub" / f"models--{name.replace('/', '--')}"


def parts(folder: Path) -> list[Path]:
    return list(repo(folder).glob("blobs/*.part"))


def amid(hub: Hub, folder: Path) -> subprocess.Popen[str]:
    """Start a download, and return when it has a part of the large file and gets no more of it."""
    hub.stall_after = STALL
    process = locating(folder, "org/open", HF_ENDPOINT=hub.url)
    part = repo(folder) / "blobs" / f"{checksum('model.safetensors', hub.files['model.safetensors'])}.part"
    while not part.exists() or not part.stat().st_size:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def killed_amid(hub: Hub, folder: Path) -> int:
    """Start a download, kill it in the middle of the large file, and return how many bytes it has
    written."""
    process = amid(hub, folder)
    process.kill()
    process.communicate()
    hub.stall_after = None
    (part,) = parts(folder)
    assert 0 < part.stat().st_size < len(BIG)
    assert not (repo(folder) / "snapshots" / hub.commit / "model.safetensors").exists()
    return part.stat().st_size


# ------------------------------------------------------------------------------------------- the
# cache


@pytest.mark.thorough
def test_a_download_is_a_cache_like_any_other(tmp_path: Path, hub: Hub) -> None:
    said = locate(tmp_path, "org/open", HF_ENDPOINT=hub.url)
    folder = Path(said.removeprefix("at "))
    assert folder == repo(tmp_path) / "snapshots" / hub.commit
    for name, data in hub.files.items():
        assert (folder / name).read_bytes() == data
        assert (folder / name).is_symlink()
        assert (folder / name).resolve() == repo(tmp_path) / "blobs" / checksum(name, data)
    assert (repo(tmp_path) / "refs" / "main").read_text() == hub.commit
    assert len(hub.gets("model.safetensors")) == 1
    assert locate(tmp_path, "org/open", HF_ENDPOINT=hub.url) == said
    assert len(hub.gets("model.safetensors")) == 1
    program = """
from huggingface_hub import get_cached_repo_tree, hf_hub_download, scan_cache_dir, snapshot_download
print(snapshot_download("org/open", local_files_only=True))
print(hf_hub_download("org/open", "model.safetensors", local_files_only=True))
print(sorted((file.path, file.size) for file in get_cached_repo_tree("org/open")))
print(scan_cache_dir().warnings)
"""
    lines = other_tool(tmp_path, program)
    assert lines[:2] == [str(folder), str(folder / "model.safetensors")]
    assert lines[2:] == [repr(sorted((name, len(data)) for name, data in hub.files.items())), "[]"]


def other_tool(folder: Path, program: str) -> list[str]:
    env = environment(folder, HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_a_model_needs_of_a_repository() -> None:
    names = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "tokenizer.json",
    ]
    spare = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "consolidated.safetensors"]
    other = [
        "onnx/model.safetensors",
        "original/params.json",
        "README.md",
        "../evil.json",
        "a\\b.json",
        "x/../y.json",
    ]
    chat = ["additional_chat_templates/tools.jinja"]
    patterns = ["*.safetensors", "*.bin", "*.json", "*.jinja"]

    def picked(names: list[str]) -> set[str]:
        tree = {name: {"size": 1, "blob_id": "0" * 40} for name in names}
        return {file.name for file in hub_cache.select_matching_repository_files(tree, patterns)}

    assert picked(names + spare + other + chat) == {*names, *chat}
    assert picked(["config.json", *spare[:2]]) == {"config.json", *spare[:2]}
    assert picked(["adapter_model.bin", "adapter_model.safetensors"]) == {"adapter_model.safetensors"}
    assert picked(["head.safetensors", "pytorch_model.bin"]) == {"head.safetensors", "pytorch_model.bin"}


@pytest.mark.thorough
def test_a_commit_that_is_there_is_not_asked_for(tmp_path: Path, hub: Hub) -> None:
    first = locate(tmp_path, "org/open", hub.commit, HF_ENDPOINT=hub.url)
    assert first.startswith("at ")
    requests = len(hub.seen)
    assert locate(tmp_path, "org/open", hub.commit, HF_ENDPOINT=hub.url) == first
    assert len(hub.seen) == requests


# ---------------------------------------------------------------------------------- going on,
# checking


@pytest.mark.thorough
def test_killed_amid_a_file_and_resumed_from_its_byte(tmp_path: Path, big_hub: Hub) -> None:
    kept = killed_amid(big_hub, tmp_path)
    said = locate(tmp_path, "org/open", HF_ENDPOINT=big_hub.url)
    assert (Path(said.removeprefix("at ")) / "model.safetensors").read_bytes() == BIG
    first, second = big_hub.gets("model.safetensors")
    assert (first.range, second.range) == (None, f"bytes={kept}-")
    assert sum(second.sent) == len(BIG) - kept
    assert not parts(tmp_path)
    assert len(big_hub.gets("config.json")) == 1


@pytest.mark.thorough
def test_a_server_that_ignores_ranges(tmp_path: Path, big_hub: Hub) -> None:
    kept = killed_amid(big_hub, tmp_path)
    big_hub.ignores_ranges = True
    said = locate(tmp_path, "org/open", HF_ENDPOINT=big_hub.url)
    assert (Path(said.removeprefix("at ")) / "model.safetensors").read_bytes() == BIG
    again = big_hub.gets("model.safetensors")[1]
    assert again.range == f"bytes={kept}-"
    assert sum(again.sent) == len(BIG)


@pytest.mark.thorough
def test_a_file_that_changed_between_two_attempts(tmp_path: Path, big_hub: Hub) -> None:
    killed_amid(big_hub, tmp_path)
    with Hub({"config.json": CONFIG, "model.safetensors": BIG[::-1]}) as changed:
        said = locate(tmp_path, "org/open", HF_ENDPOINT=changed.url)
        assert (Path(said.removeprefix("at ")) / "model.safetensors").read_bytes() == BIG[::-1]
        assert [seen.range for seen in changed.gets("model.safetensors")] == [None]
    assert said.endswith(changed.commit)


@pytest.mark.thorough
def test_damaged_content_never_gets_into_the_cache(tmp_path: Path, hub: Hub) -> None:
    hub.sends = {"model.safetensors": b"x" * 5000}
    said = locate(tmp_path, "org/open", HF_ENDPOINT=hub.url)
    assert said.startswith("error: model.name=org/open: model.safetensors is damaged: the checksum is ")
    assert said.endswith("Run the same command to download it again")
    assert [path.name for path in repo(tmp_path).glob("blobs/*")] == [checksum("config.json", CONFIG)]
    hub.sends = {"config.json": b"x" * len(CONFIG)}
    (repo(tmp_path) / "snapshots" / hub.commit / "config.json").unlink()
    (repo(tmp_path) / "blobs" / checksum("config.json", CONFIG)).unlink()
    assert "config.json is damaged" in locate(tmp_path, "org/open", HF_ENDPOINT=hub.url)
    hub.sends = {}
    said = locate(tmp_path, "org/open", HF_ENDPOINT=hub.url)
    assert (Path(said.removeprefix("at ")) / "model.safetensors").read_bytes() == b"w" * 5000


@pytest.mark.thorough
def test_a_beginning_that_was_damaged_on_the_disk(tmp_path: Path, big_hub: Hub) -> None:
    kept = killed_amid(big_hub, tmp_path)
    (part,) = parts(tmp_path)
    with part.open("r+b") as stream:
        stream.write(b"damaged")
    said = locate(tmp_path, "org/open", HF_ENDPOINT=big_hub.url)
    assert f"model.safetensors is damaged (an earlier run downloaded {kept:,} bytes): " in said
    assert not parts(tmp_path)
    assert locate(tmp_path, "org/open", HF_ENDPOINT=big_hub.url).startswith("at ")


@pytest.mark.thorough
def test_a_beginning_longer_than_the_file(tmp_path: Path, hub: Hub) -> None:
    blobs = repo(tmp_path) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{checksum('model.safetensors', hub.files['model.safetensors'])}.part").write_bytes(b"w" * 6000)
    assert locate(tmp_path, "org/open", HF_ENDPOINT=hub.url).startswith("at ")
    assert [seen.range for seen in hub.gets("model.safetensors")] == [None]


@pytest.mark.thorough
def test_two_processes_fetch_each_byte_once(tmp_path: Path, big_hub: Hub) -> None:
    big_hub.stall_after = STALL
    processes = [locating(tmp_path, "org/open", HF_ENDPOINT=big_hub.url) for _ in range(2)]
    heads = 0
    while heads < 2:  # both have asked for the large file, and one of them is amid it
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
        heads = sum(
            seen.method == "HEAD" and seen.path.endswith("model.safetensors") for seen in big_hub.seen
        )
    big_hub.go_on.set()
    said = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert len(said) == 1
    assert (Path(said.pop().removeprefix("at ")) / "model.safetensors").read_bytes() == BIG
    assert [sum(seen.sent) for seen in big_hub.gets("model.safetensors")] == [len(BIG)]
    assert len(big_hub.gets("config.json")) == 1


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.thorough
def test_offline_with_a_full_cache(tmp_path: Path, hub: Hub) -> None:
    first = locate(tmp_path, "org/open", HF_ENDPOINT=hub.url)
    assert locate(tmp_path, "org/open", HF_HUB_OFFLINE="1") == first
    assert locate(tmp_path, "org/open", HF_ENDPOINT="http://127.0.0.1:9") == first
    hub.status = 503
    process = locating(tmp_path, "org/open", HF_ENDPOINT=hub.url)
    out, err = process.communicate(timeout=120)
    assert out.strip() == first
    assert "returned HTTP status 503: the files in the cache are used" in err


@pytest.mark.thorough
def test_offline_with_half_a_cache(tmp_path: Path, big_hub: Hub) -> None:
    killed_amid(big_hub, tmp_path)
    said = locate(tmp_path, "org/open", HF_HUB_OFFLINE="1")
    assert "model.name=org/open: the cached model in " in said
    assert (
        f"{big_hub.commit} lacks model.safetensors, and the hub cannot be reached (HF_HUB_OFFLINE=1)" in said
    )
    said = locate(tmp_path, "org/open", HF_ENDPOINT="http://127.0.0.1:9")
    assert (
        "lacks model.safetensors, and the hub (127.0.0.1:9) cannot be reached (ConnectError). Run the same command"
        in said
    )


@pytest.mark.thorough
def test_offline_with_half_a_cache_that_another_tool_left(tmp_path: Path) -> None:
    snapshot = repo(tmp_path) / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    (repo(tmp_path) / "refs").mkdir()
    (repo(tmp_path) / "refs" / "main").write_text("b" * 40)
    (snapshot / "config.json").write_bytes(CONFIG)
    said = locate(tmp_path, "org/open", HF_HUB_OFFLINE="1")
    assert "lacks the weights (*.safetensors or *.bin), and the hub cannot be reached" in said
    shards = [f"model-0000{number}-of-00008.safetensors" for number in range(1, 9)]
    index = {"weight_map": {f"layer.{number}": shard for number, shard in enumerate(shards)}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / shards[1]).write_bytes(b"w")
    said = locate(tmp_path, "org/open", HF_HUB_OFFLINE="1")
    lacks = ", ".join([shards[0], *shards[2:6]])
    assert f"lacks {lacks} and 2 more, and the hub cannot be reached" in said


@pytest.mark.thorough
def test_an_interrupted_update_leaves_the_old_snapshot_usable(tmp_path: Path, big_hub: Hub) -> None:
    with Hub({"config.json": CONFIG, "model.safetensors": b"old"}) as old:
        first = locate(tmp_path, "org/open", HF_ENDPOINT=old.url)
    killed_amid(big_hub, tmp_path)
    assert locate(tmp_path, "org/open", HF_HUB_OFFLINE="1") == first
    assert locate(tmp_path, "org/open", HF_ENDPOINT=big_hub.url).endswith(big_hub.commit)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (
            "org/private",
            None,
            "does not exist, and the hub has no such model. If the model is private, set an HF_TOKEN",
        ),
        (
            "org/gated",
            None,
            "model.name=org/gated: the model is gated. Accept its license on the hub and set HF_TOKEN",
        ),
        ("org/open", "nope", "model.revision=nope: org/open has no such branch, tag or commit"),
        ("org/-open--", None, "model.name=org/-open--: not a hub id: "),
    ],
)
def test_hub_errors_in_one_message(
    tmp_path: Path, hub: Hub, name: str, revision: str | None, message: str
) -> None:
    said = locate(tmp_path, name, revision, HF_ENDPOINT=hub.url)
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "hf" / "hub").exists()  # a rejected model leaves nothing behind


@pytest.mark.thorough
def test_no_network_and_nothing_in_the_cache(tmp_path: Path, hub: Hub) -> None:
    said = locate(tmp_path, "org/open", HF_ENDPOINT="http://127.0.0.1:9")
    assert said.endswith(
        "The model is not in the cache, and the hub (127.0.0.1:9) cannot be reached (ConnectError)"
    )
    assert "The model is not in the cache, and the hub cannot be reached" in locate(
        tmp_path, "org/open", HF_HUB_OFFLINE="1"
    )
    hub.commit = "no commit"
    assert f"the server at {hub.url[7:]} is not a Hugging Face hub" in locate(
        tmp_path, "org/open", HF_ENDPOINT=hub.url
    )


@pytest.mark.thorough
def test_a_download_that_breaks_off(tmp_path: Path, hub: Hub) -> None:
    hub.redirects_to = "http://127.0.0.1:9"
    said = locate(tmp_path, "org/open", HF_ENDPOINT=hub.url)
    assert "model.name=org/open: the download was interrupted: " in said
    assert said.endswith("Run the same command to resume")
    assert not list(repo(tmp_path).glob("snapshots/*/model.safetensors"))


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(2**20))


@pytest.mark.thorough
def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, big_hub: Hub) -> None:
    mount_tmpfs(tmp_path / "hf", "size=40m")
    try:
        process = amid(big_hub, tmp_path)
        filler = tmp_path / "hf" / "filler"
        with pytest.raises(OSError, match="No space left"):
            fill(filler)
        big_hub.go_on.set()
        said = process.communicate(timeout=120)[0]
        assert "error: model.name=org/open: the disk is full (" in said
        (part,) = parts(tmp_path)
        kept = part.stat().st_size
        # still full: reported before the download
        assert "needs " in locate(tmp_path, "org/open", HF_ENDPOINT=big_hub.url)
        filler.unlink()
        big_hub.stall_after = None
        assert locate(tmp_path, "org/open", HF_ENDPOINT=big_hub.url).startswith("at ")
        assert big_hub.gets("model.safetensors")[-1].range == f"bytes={kept}-"
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "hf")], check=True)


# ------------------------------------------------------------------------------------------- the
# token


@pytest.mark.thorough
def test_the_token_is_not_sent_elsewhere_and_is_checked(tmp_path: Path, hub: Hub) -> None:
    hub.token = "hf_stored"
    assert "the hub has no such model. If the model is private, set an HF_TOKEN" in locate(
        tmp_path, "org/open", HF_ENDPOINT=hub.url
    )
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text("hf_stored\n")  # what `hf auth login` leaves
    with Hub(hub.files) as storage:
        hub.redirects_to = storage.url
        assert locate(tmp_path, "org/open", HF_ENDPOINT=hub.url).startswith("at ")
        (seen,) = storage.gets("model.safetensors")
        assert seen.token is None
    assert {seen.token for seen in hub.gets("config.json")} == {"Bearer hf_stored"}
    for bad in ("hf_two words", "hf_ümlaut"):
        process = locating(tmp_path, "org/other", HF_ENDPOINT=hub.url, HF_TOKEN=bad)
        out, err = process.communicate(timeout=120)
        assert "HF_TOKEN (or the hub's stored login) contains invalid characters" in out
        assert bad not in out + err


@pytest.mark.thorough
def test_the_token_is_sent_and_written_nowhere(runner: Callable[..., Any], tmp_path: Path) -> None:
    token = "hf_SecretThatNobodyMayRead"
    with Hub({path.name: path.read_bytes() for path in MODEL_DIR.iterdir()}) as hub:
        hub.token = token
        settings = environment(tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=token)
        model = (
            "model=auto",
            "model.name=org/open",
            "task=generate",
            "task.prompt=What is 2+3?",
            "task.debug=true",
        )
        texts = []
        for more in (["plan=true"], ["--cfg", "job"], ["generation.max_new_tokens=4"]):
            done = runner(*model, *more, **settings)
            assert done.code == 0, done.err
            texts.append(done.out + done.err)
            if more == ["plan=true"]:
                assert "6.1 MiB in 6 files of org/open (commit " in done.out
                assert not [seen for seen in hub.seen if "/resolve/" in seen.path]
                assert not repo(tmp_path).exists()
                assert not list(tmp_path.glob("outputs/jobs/*"))
        assert {seen.token for seen in hub.gets("model.safetensors")} == {f"Bearer {token}"}
    assert not [text for text in texts if token in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "result.json" for path in files)
    assert any(path.name == "mlflow.db" for path in files)
    assert not [path for path in files if token.encode() in path.read_bytes()]
    program = """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("org/open", local_files_only=True)
print(type(model).__name__, len(AutoTokenizer.from_pretrained("org/open", local_files_only=True)))
"""
    assert other_tool(tmp_path, program)[0].startswith("LlamaForCausalLM ")


@pytest.mark.thorough
def test_a_plan_of_a_grid_downloads_nothing(runner: Callable[..., Any], tmp_path: Path, big_hub: Hub) -> None:
    settings = environment(tmp_path, HF_ENDPOINT=big_hub.url)
    done = runner("-m", "model=auto", "model.name=org/open", "seed=1,2", "plan=true", **settings)
    assert done.code == 0, done.err
    assert done.out.count("25.0 MiB in 2 files of org/open (commit ") == 2
    assert "2 to do" in done.out
    assert not [seen for seen in big_hub.seen if "/resolve/" in seen.path]
    assert not repo(tmp_path).exists()
