"""Cut a safetensors checkpoint into N parts by layer, with a manifest from which `task=merge` restores it.

Layers are found by the names on disk (not by module names: some families rename at load), so nothing is lost.
Contiguous runs of layers, balanced by bytes; embeddings in the first part, final norm and head in the last.
A tied head has no bytes of its own on disk: the embedding is then stored in the first part and in the last.

OUTPUT_DIR/part_0.safetensors    the tensors of part 0, a safetensors file like any other
           partition_0.json      what they are, each with its byte range and SHA-256
           model_files/          config, tokenizer and all else that is not weights
           source_headers/       the original headers, from which merge restores the files byte for byte
           manifest.json         written last: without it the split is not complete
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from runner import machine
from runner.config import RunnerConfig, SplitConfig, StubConfig
from runner.engine.base import Engine
from runner.errors import ConfigError
from runner.jobs import Recorder
from runner.model import byteio, source
from runner.model.checkpoint import Checkpoint, load_json, read_checkpoint
from runner.model.layout import Layout, Part, find_layers, layer_type, plan_parts
from runner.progress import Progress
from runner.result import Result

VERSION = 1
READS_MODEL = True
MEASURES = False

FORMAT = {"format": "runner-split", "format_version": 1, "strategy": "balanced_bytes"}
MANIFEST = "manifest.json"
UNFINISHED = "manifest.unfinished.json"  # says whose split this is while there is no manifest yet
MODEL_FILES = "model_files"
SOURCE_HEADERS = "source_headers"
MIB = machine.MIB


def evidence(config: RunnerConfig) -> dict[str, str]:
    """Plan the split, so that a bad checkpoint is refused at once; the model's own hash is enough."""
    _plan(config)
    return {}


def execute(config: RunnerConfig, engine: Engine, recorder: Recorder) -> Result:  # noqa: ARG001 - needs no model
    """Write the parts and their manifest."""
    machine.reset_peak()
    started, rss_mib = time.perf_counter(), machine.rss_mib()
    checkpoint, layout, parts = _plan(config)
    folder = _output_dir(config)
    earlier = _earlier(folder)  # before the long hashing: a folder of something else is refused at once
    stored = sum(part.nbytes for part in parts)
    with recorder.progress(stored + sum(file.size for file in checkpoint.files), "hash", "bytes") as bar:
        draft = _draft(config, checkpoint, len(parts), bar)
        _refuse_other(folder, earlier, draft)
        _require_space(folder, checkpoint, parts)
        write_started = time.perf_counter()
        manifest = draft | _write(folder, checkpoint, layout, parts, draft, bar)
    now = time.perf_counter()
    sizes = [part.nbytes for part in parts]
    totals = manifest["totals"]
    metrics = {
        "num_parts": len(parts),
        "tensors": totals["tensors"],
        "total_params": totals["unique_params"],
        "unique_mib": totals["unique_bytes"] / MIB,
        "stored_mib": stored / MIB,
        "largest_part_mib": max(sizes) / MIB,
        "balance": max(sizes) * len(sizes) / stored,
        "seconds": now - started,
        "write_mib_per_s": stored / MIB / (now - write_started),
        "peak_rss_mib": machine.peak_rss_mib(),
        "rss_growth_mib": max(0.0, machine.peak_rss_mib() - rss_mib),
    }
    files = [MANIFEST, *(entry[key] for entry in manifest["parts"] for key in ("file", "partition"))]
    return Result(
        metrics=metrics,
        rows=[_row(part, stored) for part in parts],
        facts={"output_dir": str(folder), "source": manifest["source"]["name"], "layers": layout.stack},
        notes=_notes(checkpoint, layout, len(parts)),
        artifacts=[str(folder / name) for name in files],
    )


def _row(part: Part, stored: int) -> dict[str, Any]:
    return {
        "part": part.part_id,
        "layers": f"{part.layers[0]}-{part.layers[1]}",
        "also_holds": ", ".join(part.holds) or "-",
        "params": part.params,
        "mib": part.nbytes / MIB,
        "share": part.nbytes / stored,
    }


def _notes(checkpoint: Checkpoint, layout: Layout, num_parts: int) -> list[str]:
    notes = []
    if layout.tied and num_parts > 1:
        names = ", ".join(tensor.name for tensor in layout.tied)
        notes.append(f"the head is tied to the embedding: {names} is stored in the first part and in the last")
    elif not layout.head and not layout.tied:
        notes.append("no head and no tied embedding found by name: the last part holds no head")
    if checkpoint.left_out:
        notes.append(f"not copied, as neither this checkpoint's weights nor its configuration: {checkpoint.left_out}")
    return notes


def _plan(config: RunnerConfig) -> tuple[Checkpoint, Layout, list[Part]]:
    """Decide what goes where from the headers alone."""
    task = config.task
    assert isinstance(task, SplitConfig)
    if isinstance(config.model, StubConfig):
        raise ConfigError("task=split needs weights and model=stub has none: use model=embedded or model=auto")
    for key in ("quantization", "lora"):
        if (choice := getattr(config, key).name) != "none":
            raise ConfigError(f"{key}={choice}: task=split copies the checkpoint as it lies on disk, use {key}=none")
    folder = source.locate(config.model)
    if folder.is_file():
        raise ConfigError(f"model.name={config.model.name}: task=split cuts safetensors, and this is a .gguf file")
    checkpoint = read_checkpoint(folder)
    layout = find_layers(checkpoint)
    count = len(layout.layers)
    if task.num_parts > count:
        raise ConfigError(f"task.num_parts={task.num_parts}: the model has {count} layers, so {count} parts at most")
    return checkpoint, layout, plan_parts(layout, task.num_parts)


# ---------------------------------------------------------------------------------------------- output


def _output_dir(config: RunnerConfig) -> Path:
    assert isinstance(config.task, SplitConfig)
    return Path(config.task.output_dir).expanduser().absolute()


def _draft(config: RunnerConfig, checkpoint: Checkpoint, num_parts: int, bar: Progress) -> dict[str, Any]:
    """Say what will be split into how many parts: the head of the manifest."""
    files = [
        {"file": file.path.name, "bytes": file.size, "sha256": byteio.file_sha256(file.path, bar.advance)}
        for file in checkpoint.files
    ]
    name = config.model.name
    if Path(name).expanduser().is_absolute():
        name = checkpoint.folder.name  # where it lay on this machine is nobody else's business
    return {
        **FORMAT,
        "num_parts": num_parts,
        "source": {"name": name, "revision": config.model.revision, "files": files},
        "companions": [_companion(path) for path in checkpoint.companions],
    }


def _companion(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": byteio.file_sha256(path)}


def _earlier(folder: Path) -> dict[str, Any] | None:
    """Return the head of the split that lies in the folder already, None for an empty or absent folder."""
    names = byteio.list_folder(folder, "task.output_dir")
    if not names:
        return None
    for name in (MANIFEST, UNFINISHED):
        if name in names and (earlier := load_json(folder / name)).get("format") == FORMAT["format"]:
            return earlier
    raise ConfigError(
        f"task.output_dir={folder}: the folder is not empty ({', '.join(names[:3])}, ...) and holds no split "
        "of this model. Nothing was changed: give an empty or new folder"
    )


def _refuse_other(folder: Path, earlier: dict[str, Any] | None, draft: dict[str, Any]) -> None:
    """Allow writing over an earlier split only when it is the same split."""
    if earlier is None:
        return
    pairs = {key: (earlier.get(key), draft[key]) for key in (*FORMAT, "num_parts", "companions")}
    there = earlier.get("source")
    pairs["source files"] = (
        there.get("files") if isinstance(there, dict) else None,
        draft["source"]["files"],
    )
    differ = [key for key, (there, here) in pairs.items() if there != here]
    if differ:
        say = {"num_parts": f"num_parts is {earlier.get('num_parts')} there and {draft['num_parts']} here"}
        what = ", ".join(say.get(key, f"{key} differ") for key in differ)
        raise ConfigError(
            f"task.output_dir={folder}: holds another split ({what}). Nothing was changed: give an empty or new folder"
        )


def _require_space(folder: Path, checkpoint: Checkpoint, parts: list[Part]) -> None:
    """Ask for room for what is not there yet, at least for the largest part: it is written beside the old."""
    there = sum(file.stat().st_size for file in folder.glob("part_*.safetensors"))
    companions = sum(path.stat().st_size for path in checkpoint.companions)
    headers = 2 * sum(len(file.header) for file in checkpoint.files)
    needed = sum(part.nbytes for part in parts) + companions + headers - there
    byteio.require_space(folder, max(needed, max(part.nbytes for part in parts)))


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    layout: Layout,
    parts: list[Part],
    draft: dict[str, Any],
    bar: Progress,
) -> dict[str, Any]:
    """Write everything, the manifest last, and return what the manifest says besides the draft."""
    byteio.make_folder(folder)
    if not (folder / MANIFEST).exists():
        byteio.write_json(folder / UNFINISHED, draft)  # first, so that an interrupted split can be run again
    for sub in (MODEL_FILES, SOURCE_HEADERS):
        byteio.make_folder(folder / sub)
    for path, entry in zip(checkpoint.companions, draft["companions"], strict=True):
        pieces = byteio.read_range(path, 0, entry["bytes"])
        byteio.write_file(folder / MODEL_FILES / path.name, pieces, entry["sha256"])
    headers = []
    for file in checkpoint.files:
        name = f"{file.path.name}.header"
        digest = byteio.write_file(folder / SOURCE_HEADERS / name, [file.header])
        headers.append({"file": name, "bytes": len(file.header), "sha256": digest})
    metadata = {"format": "pt"} | {key: text for file in checkpoint.files for key, text in file.metadata.items()}
    written = [_write_part(folder, part, metadata, bar) for part in parts]
    holders = {what: [part.part_id for part in parts if what in part.holds] for what in ("embedding", "norm")}
    tensors = checkpoint.tensors
    rest = {
        "headers": headers,
        "layers": {"prefix": layout.stack, "count": len(layout.layers)},
        **holders,
        "head": [part.part_id for part in parts if {"head", "tied head"} & set(part.holds)],
        "tied": [{"tensor": t.name, "parts": sorted({0, len(parts) - 1}), "as": "head"} for t in layout.tied],
        "parts": written,
        "totals": {
            "tensors": len(tensors),
            "unique_params": sum(tensor.params for tensor in tensors),
            "stored_params": sum(part.params for part in parts),
            "unique_bytes": sum(tensor.nbytes for tensor in tensors),
            "stored_bytes": sum(part.nbytes for part in parts),
        },
    }
    byteio.write_json(folder / MANIFEST, draft | rest)
    (folder / UNFINISHED).unlink(missing_ok=True)
    return rest


def _write_part(folder: Path, part: Part, metadata: dict[str, str], bar: Progress) -> dict[str, Any]:
    """Write part_N.safetensors and partition_N.json, and return the part's entry in the manifest."""
    bar.say(f"part {part.part_id}")
    name, partition = f"part_{part.part_id}.safetensors", f"partition_{part.part_id}.json"
    header = byteio.build_header(part.tensors, metadata)
    hashes: dict[str, str] = {}
    digest = byteio.write_file(folder / name, byteio.tensor_bytes(header, part.tensors, bar.advance, hashes))
    layers, offset = [], len(header)
    for tensor in part.tensors:
        reference = {"file": name, "tensor": tensor.name, "dtype": tensor.dtype, "offset": offset}
        reference |= {"nbytes": tensor.nbytes, "sha256": hashes[tensor.name]}
        offset += tensor.nbytes
        layers.append(
            {
                "name": tensor.name,
                "layer_type": layer_type(tensor.name),
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "parameters": reference,
            }
        )
    content = {
        "part_id": part.part_id,
        "layers": layers,
        "parameters_format": "reference",
        "total_params": part.params,
    }
    return {
        "part_id": part.part_id,
        "file": name,
        "bytes": offset,
        "sha256": digest,
        "partition": partition,
        "partition_sha256": byteio.write_json(folder / partition, content),
        "layers": list(part.layers),
        "holds": part.holds,
        "tensors": len(part.tensors),
        "params": part.params,
    }
