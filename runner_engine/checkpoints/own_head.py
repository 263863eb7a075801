"""The head for the next tokens (multi-token prediction, MTP) that a model's own files carry: which
tensors it has, and what is refused. Imports no torch.

Such a head is one more layer. Of each token it reads what the model's last norm gave for the token
before, and the token's embedding, both normed and joined by a matrix; embedding and output matrix
are the model's own. transformers leaves these tensors out of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner_base import ConfigError
from runner_base.notes import Note, note
from runner_engine.checkpoints.resolve import ModelFiles
from runner_engine.checkpoints.weight_files import Tensor
from runner_engine.render.notes import render
from runner_engine.settings.speculation import KEY, Speculate

FLOATS = ("BF16", "F16", "F32")
LAYER, NORM = "model.layers.0.", "model.norm.weight"  # as the head has them in a model of one layer
JOINING = ("join.weight", "norm_of_embedding.weight", "norm_of_hidden.weight")


@dataclass(frozen=True)
class HeadForm:
    """How a family names the tensors of its head."""

    counted: str | None  # the key of config.json that says how many there are; None: no key does
    begin: str  # of their names; {layers}: the number of the model's own layers
    block: str  # what the names of its layer have behind that
    joining: tuple[str, str, str]  # as JOINING
    norm: str
    shared: tuple[str, ...] = ()  # copies of the model's own

    def may_be_in(self, settings: Mapping[str, Any]) -> bool:
        """Whether a model's files may have a head, by its config.json."""
        return self.counted is None or bool(settings.get(self.counted))

    def begin_in(self, settings: Mapping[str, Any]) -> str:
        """Return what the names of the tensors begin with in a model's files."""
        return self.begin.format(layers=settings.get("num_hidden_layers"))

    def names(self, settings: Mapping[str, Any], tensors: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a head by their names in a model of one layer."""
        begin = self.begin_in(settings)
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


QWEN = HeadForm(
    "mtp_num_hidden_layers",
    "mtp.",
    "layers.0.",
    ("fc.weight", "pre_fc_norm_embedding.weight", "pre_fc_norm_hidden.weight"),
    "norm.weight",
)
DEEPSEEK = HeadForm(
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


def tensors_of_head(files: ModelFiles) -> dict[str, Tensor]:
    """Return the tensors of a model's own head by their names in a model of one layer; none where
    its family has none that is read here."""
    form = _form_of(files)
    return {} if form is None else form.names(files.text_settings, files.tensors)


def is_of_head(files: ModelFiles, name: str) -> bool:
    """Whether a tensor of a model's files is of its own head, or a copy that lies beside it: a load
    leaves both out."""
    begin = _begin_of_head(files)
    return begin is not None and name.startswith(begin)


def without_head(files: ModelFiles, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors of a model that is loaded, which leaves its own head out."""
    begin = _begin_of_head(files)
    for tensor in tensors:
        if begin is None or not tensor.name.startswith(begin):
            yield tensor


def _begin_of_head(files: ModelFiles) -> str | None:
    """Return what the names of a head's tensors begin with; None where no head is read."""
    form = _form_of(files)
    return None if form is None else form.begin_in(files.text_settings)


def _form_of(files: ModelFiles) -> HeadForm | None:
    form = FORMS.get(str(files.text_settings.get("model_type")))
    return form if form is not None and form.may_be_in(files.text_settings) else None


def as_one_layer(files: ModelFiles) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the tensors and the settings of a head as a model of one layer, for predictions."""
    tensors = [
        replace(tensor, name=LAYER + name.removeprefix(LAYER))
        for name, tensor in tensors_of_head(files).items()
    ]
    return tensors, {**files.text_settings, **OF_ONE_LAYER}


def check_head(how: Speculate, files: ModelFiles) -> None:
    """Reject a model that carries no head of its own, or one that is not read here."""
    if (why := _rejection(files)) is not None:
        raise ConfigError(
            f"{render(why)}: use {KEY}=draft, or {KEY}=ngram", key=KEY, value=how, code="unsupported"
        )


def _rejection(files: ModelFiles) -> Note | None:
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
    return _rejected_tensors(files, form, note("head_missing", counts=named) if counts else note("no_head"))


def _rejected_tensors(files: ModelFiles, form: HeadForm, without: Note) -> Note | None:
    """Return what is wrong with a head's tensors; without: what is so where there are none."""
    tensors = tensors_of_head(files)
    if any(name not in tensors for name in (*JOINING, NORM)):
        return note("no_head_tensors", reason=without, begin=form.begin_in(files.text_settings))
    if files.weights[0] != "safetensors":
        return note("head_in_bin")
    quantized = [one.name for one in tensors.values() if one.dtype not in FLOATS]
    return note("head_quantized", tensor=quantized[0]) if quantized else None
