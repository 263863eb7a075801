"""Finds the multi-token prediction (MTP) head in a model's files, and rejects unsupported heads.

Imports no torch. Such a head is one more layer. For each token it reads the output of the model's
last norm for the preceding token, and the token's embedding, both normed and joined by a matrix;
embedding and output matrix are the model's own. transformers ignores these tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.checkpoints.resolved_model import ModelFiles
from runner_engine.checkpoints.weight_files import TensorLocation
from runner_engine.render.notes import render_engine_note
from runner_engine.settings.speculation import KEY, SpeculationConfig

FLOATS = ("BF16", "F16", "F32")
LAYER, NORM = "model.layers.0.", "model.norm.weight"  # as the head has them in a model of one layer
JOINING = ("join.weight", "norm_of_embedding.weight", "norm_of_hidden.weight")


@dataclass(frozen=True)
class HeadNaming:
    """The names that a model family gives to the tensors of its MTP head."""

    counted: str | None  # the key of config.json that says how many there are; None: no key does
    begin: str  # of their names; {layers}: the number of the model's own layers
    block: str  # what the names of its layer have behind that
    joining: tuple[str, str, str]  # as JOINING
    norm: str
    shared: tuple[str, ...] = ()  # copies of the model's own

    def can_have_head(self, config: Mapping[str, Any]) -> bool:
        return self.counted is None or bool(config.get(self.counted))

    def get_tensor_prefix(self, config: Mapping[str, Any]) -> str:
        """Return the prefix of the MTP head's tensor names in the model's files."""
        return self.begin.format(layers=config.get("num_hidden_layers"))

    def map_tensors(
        self, config: Mapping[str, Any], tensors: Iterable[TensorLocation]
    ) -> dict[str, TensorLocation]:
        begin = self.get_tensor_prefix(config)
        others = dict(zip((*self.joining, self.norm), (*JOINING, NORM), strict=True))
        found = {}
        for tensor in tensors:
            name = tensor.name.removeprefix(begin)
            if name == tensor.name or name in self.shared:
                continue
            if name in others:
                found[others[name]] = tensor
            elif name.startswith(self.block):
                found[LAYER + name.removeprefix(self.block)] = tensor
        return found


QWEN = HeadNaming(
    "mtp_num_hidden_layers",
    "mtp.",
    "layers.0.",
    ("fc.weight", "pre_fc_norm_embedding.weight", "pre_fc_norm_hidden.weight"),
    "norm.weight",
)
DEEPSEEK = HeadNaming(
    "num_nextn_predict_layers",
    "model.layers.{layers}.",
    "",
    ("eh_proj.weight", "enorm.weight", "hnorm.weight"),
    "shared_head.norm.weight",
    ("embed_tokens.weight", "shared_head.head.weight"),
)
FORMS = {
    "deepseek_v3": DEEPSEEK,
    "glm4_moe": DEEPSEEK,
    "glm4_moe_lite": DEEPSEEK,
    "qwen3_5_text": QWEN,
    "qwen3_5_moe_text": QWEN,
    "qwen3_next": replace(QWEN, counted=None),
}
COUNTS = ("mtp_num_hidden_layers", "num_nextn_predict_layers", "num_mtp_layers")
OF_ONE_LAYER = {
    "num_hidden_layers": 1,
    "layer_types": ["full_attention"],
    "first_k_dense_replace": 0,
    "mlp_layer_types": ["sparse"],
}


def find_mtp_head_tensors(files: ModelFiles) -> dict[str, TensorLocation]:
    """Return the tensors of the MTP head under the names of a one-layer model, or {} if no head is
    supported.
    """
    form = _find_head_naming(files)
    return {} if form is None else form.map_tensors(files.text_settings, files.tensors)


def is_mtp_head_tensor(files: ModelFiles, tensor_name: str) -> bool:
    """Whether a tensor has the name prefix of the MTP head."""
    begin = _get_mtp_tensor_prefix(files)
    return begin is not None and tensor_name.startswith(begin)


def exclude_mtp_head_tensors(
    files: ModelFiles, tensors: Iterable[TensorLocation]
) -> Iterator[TensorLocation]:
    begin = _get_mtp_tensor_prefix(files)
    for tensor in tensors:
        if begin is None or not tensor.name.startswith(begin):
            yield tensor


def _get_mtp_tensor_prefix(files: ModelFiles) -> str | None:
    """Return the prefix of the MTP head's tensor names. None if the model family has no supported head."""
    form = _find_head_naming(files)
    return None if form is None else form.get_tensor_prefix(files.text_settings)


def _find_head_naming(files: ModelFiles) -> HeadNaming | None:
    form = FORMS.get(str(files.text_settings.get("model_type")))
    return form if form is not None and form.can_have_head(files.text_settings) else None


def convert_head_to_model(files: ModelFiles) -> tuple[list[TensorLocation], dict[str, Any]]:
    tensors = [
        replace(tensor, name=LAYER + name.removeprefix(LAYER))
        for name, tensor in find_mtp_head_tensors(files).items()
    ]
    return tensors, {**files.text_settings, **OF_ONE_LAYER}


def check_mtp_head(speculation: SpeculationConfig, files: ModelFiles) -> None:
    """Raise ConfigError if a model has no MTP head, or an unsupported one."""
    if (why := _explain_unusable_mtp_head(files)) is not None:
        raise ConfigError(
            f"{render_engine_note(why)}. Use {KEY}=draft, or {KEY}=ngram",
            key=KEY,
            value=speculation,
            code="unsupported",
        )


def _explain_unusable_mtp_head(files: ModelFiles) -> Note | None:
    settings = files.text_settings
    family = settings.get("model_type")
    counts = {key: settings[key] for key in COUNTS if settings.get(key)}
    form = FORMS.get(str(family))
    if files.path.is_file():
        return note("head_in_gguf")
    if not counts and (form is None or form.counted is not None):
        return note("no_head_counted", keys=", ".join(COUNTS))
    named = ", ".join(f"{key}={value}" for key, value in counts.items())
    if form is None:
        return note("head_of_other_family", family=family, known=", ".join(sorted(FORMS)))
    heads = settings.get(form.counted) if form.counted else max(counts.values(), default=1)
    if heads != 1:
        return note("several_heads", counts=named)
    return _find_mtp_tensor_problem(
        files, form, note("head_missing", counts=named) if counts else note("no_head")
    )


def _find_mtp_tensor_problem(files: ModelFiles, naming: HeadNaming, missing_note: Note) -> Note | None:
    """Return the reason why the tensors of an MTP head are unsupported, or None if they are supported.

    Returns `missing_note` if there are no tensors.
    """
    tensors = find_mtp_head_tensors(files)
    if any(name not in tensors for name in (*JOINING, NORM)):
        return note(
            "no_head_tensors", reason=missing_note, begin=naming.get_tensor_prefix(files.text_settings)
        )
    if files.weight_files[0] != "safetensors":
        return note("head_in_bin")
    quantized = [one.name for one in tensors.values() if one.dtype not in FLOATS]
    return note("head_quantized", tensor=quantized[0]) if quantized else None
