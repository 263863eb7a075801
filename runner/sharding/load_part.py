"""Load one part of a split as a stage that runs: `load_part`.

The part's file is mapped and its tensors become the stage's parameters as they are, so that loading needs no memory
beyond the weights themselves (a change of dtype or a GPU copies them, tensor by tensor). Plain `from_pretrained` cannot
do that: it fills what another part holds with random numbers. In a parts folder it finds no config.json and refuses.
"""

from __future__ import annotations

import copy
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from runner.core.errors import ConfigError, DataError
from runner.quantization import quiet_imports
from runner.sharding.check import check_part
from runner.sharding.family import (
    cannot_run,
    layers_path,
    model_config,
    one_line,
    part_config,
    require_runnable,
    require_same_layers,
)
from runner.sharding.manifest import MODEL_FILES, Manifest, PartEntry, read_manifest
from runner.sharding.stage import AbsentModule, ForwardPass, Stage, allowed_absence


def load_part(
    folder: str | Path,
    part_id: int,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    attention: str | None = None,
    verify: bool = True,
) -> Stage:
    """Load part `part_id` of the split in `folder` as a stage of the model; dtype auto = as the checkpoint says.

    With verify every byte is compared with the digest in the manifest before it is used.
    """
    started = time.perf_counter()
    quiet_imports()
    manifest = read_manifest(Path(folder).expanduser().absolute(), "folder")
    entry = part_entry(manifest, part_id)
    is_first, is_last = part_id == 0, part_id == manifest.num_parts - 1
    config = model_config(manifest)
    span = entry.layers
    assert span is not None  # part_entry has refused the others
    own = part_config(manifest, config, span)
    require_same_layers(manifest, config, own, span)
    _require_sound(manifest, entry, verify)
    wanted = _dtype(dtype, config)
    state = _read(manifest, entry, wanted)
    model, missing = _assign(own, state, wanted, attention) or _convert(own, state, wanted, attention)
    del state
    path = layers_path(model, manifest)
    layers = model.get_submodule(path)
    _require_needed(entry, model, missing, path, is_first, is_last)
    passing = ForwardPass()
    for name in sorted({key.rpartition(".")[0] for key in missing}):
        if f"{path}.".startswith(f"{name}."):
            raise cannot_run(manifest, config, f"it has weights beside its layers, in {name or type(model).__name__}")
        owner, _, leaf = name.rpartition(".")
        absent = AbsentModule(name, part_id, allowed_absence(is_first, is_last), passing)
        setattr(model.get_submodule(owner), leaf, absent)
    meta = [name for name, tensor in _tensors(model) if tensor.is_meta]
    assert not meta, f"part {part_id}: without values: {meta}"
    _set_generation(manifest, model)
    model = model.requires_grad_(False).eval().to(device)
    nbytes = sum(tensor.nbytes for _, tensor in _tensors(model))
    at = next(tensor.device for _, tensor in _tensors(model))
    stage = Stage(model, layers, part_id, span, is_first, is_last, nbytes, wanted, at, passing)
    stage.load_s = time.perf_counter() - started
    return stage


def load_tokenizer(folder: str | Path) -> Any:
    """Return the tokenizer of a split model; it lies in model_files/."""
    from transformers import AutoTokenizer

    place = Path(folder).expanduser().absolute() / MODEL_FILES
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"task.parts={folder}: no usable tokenizer in {place}: {one_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked out: any token will do
    return tokenizer


# ------------------------------------------------------------------------------------------ what can be loaded


def part_entry(manifest: Manifest, part_id: int) -> PartEntry:
    """Return the manifest's entry of a part that can be loaded."""
    require_runnable(manifest, "folder")
    if not 0 <= part_id < manifest.num_parts:
        raise ConfigError(f"part_id={part_id}: {manifest.folder} has the parts 0 to {manifest.num_parts - 1}")
    return manifest.parts[part_id]


def _require_sound(manifest: Manifest, entry: PartEntry, verify: bool) -> None:
    """Raise DataError unless the part is there and agrees with the manifest."""
    problems = check_part(manifest, entry, "files" if verify else "quick", lambda _: None).problems
    if problems:
        more = f" ({len(problems) - 1} more: task=verify lists them)" if len(problems) > 1 else ""
        raise DataError(f"part {entry.part_id} of {manifest.folder} is damaged: {problems[0]}{more}")


def _dtype(wanted: str | torch.dtype, config: Any) -> torch.dtype:
    """Turn a name into a dtype; auto is what the checkpoint says, float32 where it says nothing."""
    if isinstance(wanted, torch.dtype):
        return wanted
    if wanted == "auto":
        stored = getattr(config, "dtype", None) or torch.float32
        return stored if isinstance(stored, torch.dtype) else _dtype(str(stored), config)
    found = getattr(torch, wanted, None)
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ConfigError(f"dtype={wanted}: use auto, float32, bfloat16 or float16")
    return found


# ------------------------------------------------------------------------------------------------ the weights


def _read(manifest: Manifest, entry: PartEntry, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Map the part and return its tensors, the layers numbered from 0 on."""
    from safetensors.torch import load_file

    assert entry.layers is not None
    first, last = entry.layers
    pattern = re.compile(rf"{re.escape(manifest.prefix)}\.(\d+)\.(.+)")
    state = {}
    for name, tensor in load_file(manifest.folder / entry.stored.file).items():
        found = pattern.fullmatch(name)
        if found and int(found[1]) > last:
            continue  # numbered on behind the layers: heads that predict further tokens, not used here
        own = f"{manifest.prefix}.{int(found[1]) - first}.{found[2]}" if found else name
        state[own] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return state


def _assign(
    config: Any, state: dict[str, torch.Tensor], dtype: torch.dtype, attention: str | None
) -> tuple[Any, set[str]] | None:
    """Make the mapped tensors a model's parameters; None where names on disk are not those of the modules."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    chosen = {} if attention is None else {"attn_implementation": attention}
    with no_init_weights(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, **chosen)
    if not state.keys() <= model.state_dict().keys():
        return None
    model.requires_grad_(False)
    model.load_state_dict(state, strict=False, assign=True)
    missing = {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.is_meta}
    for target, source in model.all_tied_weights_keys.items():
        if target in missing and source not in missing:
            owner, _, leaf = target.rpartition(".")
            setattr(model.get_submodule(owner), leaf, model.get_parameter(source))
            missing.discard(target)
    return model, missing


def _convert(
    config: Any, state: dict[str, torch.Tensor], dtype: torch.dtype, attention: str | None
) -> tuple[Any, set[str]]:
    """Let transformers rename and fuse tensors that are stored under other names than its modules have."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as KNOWN

    settings: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    settings |= {"config": config, "state_dict": state, "dtype": dtype, "output_loading_info": True}
    family: Any = KNOWN[type(config)]
    with _quiet():  # it warns that other parts' weights are newly initialized; those are thrown away
        model, report = family.from_pretrained(None, **settings)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return model, names & set(report["missing_keys"])


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every parameter and buffer once."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def _require_needed(entry: PartEntry, model: Any, missing: set[str], stack: str, is_first: bool, is_last: bool) -> None:
    """Raise DataError where the part lacks a tensor that it needs to run."""
    needed = {name for name in missing if name.startswith(f"{stack}.")}
    for wanted, module in ((is_first, model.get_input_embeddings()), (is_last, model.get_output_embeddings())):
        if wanted and module is not None:
            own = {id(tensor) for tensor in module.parameters()}
            needed |= {name for name in missing if id(model.get_parameter(name)) in own}
    if needed:
        raise DataError(f"part {entry.part_id} ({entry.stored.file}) lacks {', '.join(sorted(needed)[:5])}")


def _set_generation(manifest: Manifest, model: Any) -> None:
    """Give the stage the checkpoint's generation config: it names further tokens that end a text."""
    from transformers import GenerationConfig

    place = manifest.folder / MODEL_FILES
    if (place / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(place, local_files_only=True)
