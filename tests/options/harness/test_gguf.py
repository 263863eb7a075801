"""A .gguf file in lm-eval: HellaSwag's own task, with local questions, scores it as its unpacked
weights."""

from __future__ import annotations

import json
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from lm_eval import evaluator_utils
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch.utils import collect_env

from runner import compare
from runner.datasets.word_problems import Split, generate_problems
from runner.options import harness
from runner.options.harness.model import EngineModel
from runner_base.errors import ConfigError
from runner_engine.embedded import MODEL_DIR
from runner_engine.models.loading import gguf
from tools import embedded_gguf, real_model

N = 24
NEAR = 1e-4  # nats: how far log-likelihoods of 10 to 40 tokens may differ by other orders of sums in float32
TASK = """
include: {shipped}
task: endings
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
training_split: null
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a file of four bits, that file unpacked as `whole`, and questions
    shaped as HellaSwag's."""
    folder = tmp_path_factory.mktemp("gguf")
    file = embedded_gguf.write(folder / "four_bits.gguf", "Q4_0")
    real_model.unpack(file, folder / "whole", "float32")
    (folder / "endings.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents()))
    shipped = Path(lm_eval.tasks.__file__).parent / "hellaswag" / "hellaswag.yaml"
    (folder / "endings.yaml").write_text(TASK.format(shipped=shipped, data=folder / "endings.jsonl"))
    return folder


def documents() -> list[dict[str, Any]]:
    """Word problems with four results: the right one, that and 1, that times 10, and another
    problem's."""
    found: list[dict[str, Any]] = []
    for one, other in pairwise(generate_problems(Split("test"), 2 * N)):
        first, _, rest = one.question.partition(". ")
        right, another = (each.answer.split("\n")[-1] for each in (one, other))
        wrong, gold = ([f"{right[:-1]}{(int(right[-1]) + 1) % 10}", f"{right}0", another], len(found) % 4)
        if len({right, *wrong}) == 4:  # equal ones would be chosen by rounding
            endings = [*wrong[:gold], right, *wrong[gold:]]
            document = {"activity_label": "A problem", "ctx_a": f"{first}.", "ctx_b": rest}
            found.append({**document, "endings": endings, "label": str(gold)})
    return found[:N]


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, Path]:
    """What the command writes for the file, for its unpacked weights by both backends, and for
    other weights."""
    options = ["--include_path", str(folder), "--tasks", "endings", "--log_samples"]
    sides = {
        "file": ["--model_args", f"pretrained={folder / 'four_bits.gguf'}"],
        "whole": ["--model_args", f"pretrained={folder / 'whole'},dtype=float32"],
        "hf": [
            "--model",
            "hf",
            "--device",
            "cpu",
            "--model_args",
            f"pretrained={folder / 'whole'},dtype=float32",
        ],
        "original": ["--model_args", f"pretrained={MODEL_DIR},dtype=float32"],
    }
    with pytest.MonkeyPatch.context() as patch:  # without what takes most of the time and is not read here
        patch.setattr(collect_env, "get_pretty_env_info", lambda: "left out")
        patch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
        patch.setattr(evaluator_utils, "stderr_for_metric", lambda **_: None)
        for name, more in sides.items():
            assert harness.main([*more, *options, "--output_path", str(folder / f"out_{name}")]) == 0
    return {name: folder / f"out_{name}" for name in sides}


def samples(output: Path) -> list[dict[str, Any]]:
    (file,) = output.rglob("samples_endings_*.jsonl")
    return sorted(map(json.loads, file.read_text().splitlines()), key=lambda one: one["doc_id"])


def likelihoods(output: Path) -> list[float]:
    return [float(nats) for one in samples(output) for nats, _ in one["filtered_resps"]]


@pytest.mark.thorough
@pytest.mark.slow
def test_scores_are_those_of_the_unpacked_model(written: dict[str, Path]) -> None:
    ours = samples(written["file"])
    for side in ("whole", "hf"):
        assert likelihoods(written[side]) == pytest.approx(likelihoods(written["file"]), abs=NEAR), side
        for mine, its in zip(ours, samples(written[side]), strict=True):
            assert [mine[key] for key in ("doc_hash", "acc", "acc_norm")] == [
                its[key] for key in ("doc_hash", "acc", "acc_norm")
            ]
    for metric in ("acc", "acc_norm"):
        assert 0 < sum(one[metric] for one in ours) < N, "questions that are all alike would show nothing"
    assert [one["acc"] for one in ours] != [one["acc_norm"] for one in ours]
    others = likelihoods(written["original"])
    assert (
        max(abs(one - other) for one, other in zip(likelihoods(written["file"]), others, strict=True))
        > 1000 * NEAR
    )


@pytest.mark.slow
def test_a_comparison_names_its_quantization(
    written: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    both = [str(written["original"]), str(written["file"]), "--baseline", "quantization=none"]
    assert compare.main(["--lm-eval", *both, "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert {row["config"]["quantization.name"] for row in table["rows"]} == {"none", "gguf"}


@pytest.mark.slow
def test_tokens_are_those_of_hf_and_a_context_is_read_once(folder: Path) -> None:
    ours = EngineModel.create_from_arg_string(f"pretrained={folder / 'four_bits.gguf'}")
    theirs: Any = HFLM(pretrained=str(folder / "whole"), dtype="float32", device="cpu")
    pairs = [
        ("Ann has 12 apples", " and 305"),
        ("A space ", "7"),
        ("A line\n", "\n\n"),
        ("", " 7"),
        ("né", "e 東京"),
    ]
    pairs += [("<|im_start|>user\nHi", "<|im_end|>"), ("Ann ha", "s 3")]
    for context, ending in pairs:
        both = [
            lm.tok_encode(ending, add_special_tokens=False)
            if not context
            else lm._encode_pair(context, ending)
            for lm in (ours, theirs)
        ]
        assert both[0] == both[1], (context, ending)
    texts = (one.question for one in generate_problems(Split("test"), N))
    # shorter than those of HellaSwag
    context = next(text for text in texts if 24 < len(ours.tok_encode(text)) < 40)
    endings = [" 7", " 12 apples and 3 pears", " He has 4.", " 60"]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(context, one), idx=at)
        for at, one in enumerate(endings)
    ]
    ours.loglikelihood(requests, disable_tqdm=True)
    (before, _), lengths = (
        ours._encode_pair(context, ""),
        [len(ours._encode_pair(context, one)[1]) for one in endings],
    )
    # the last token of the context is each ending's own, and the last one of an ending is only
    # scored
    assert ours.engine.stats.prefill_tokens == len(before) - 1 + sum(lengths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrained={0}/no.gguf", "model path does not exist: "),
        (
            "pretrained=owner/some.gguf",
            "does not exist: .*hf download OWNER/MODEL FILE.gguf --local-dir .` fetches it",
        ),
        ("pretrained={0}/cut.gguf", "cut.gguf: truncated: tensor .* should end at byte"),
        ("pretrained={0}/text.gguf", "text.gguf: not a GGUF file: .*no m"),
        ("pretrained={0}/many", "many: the folder contains .gguf files.*one.gguf.*other.gguf"),
        (
            "pretrained={0}/four_bits.gguf,quantization=nf4",
            "quantization=nf4 cannot load. Use quantization=gguf",
        ),
        (
            "pretrained={0}/four_bits.gguf,quantization.double_quant=true",
            "no key 'quantization.double_quant'",
        ),
        (
            "pretrained={0}/without.gguf",
            "the tokenizer in .*without.gguf cannot be loaded: .*tokenizer.ggml.tokens is not a list of strings",
        ),
        (
            "pretrained={0},gguf_file=four_bits.gguf",
            "gguf_file=four_bits.gguf: --model runner has no such key: name the file itself, pretrained=FOLDER/FILE.gguf",
        ),
        (
            "pretrained={0}/four_bits.gguf,tokenizer=a/b",
            "tokenizer=a/b: --model runner has no such key: .* a .gguf file contains its own tokenizer",
        ),
        (
            "base_url=http://localhost:1",
            "base_url=.*: --model runner has no such key: the model runs in this process. Give pretrained=FILE.gguf",
        ),
    ],
)
def test_a_mistake_is_one_message_before_weights_are_read(
    folder: Path, arguments: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "load_gguf_model", lambda *_: pytest.fail("weights were read"))
    whole = (folder / "four_bits.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (folder / "text.gguf").write_text("no model")
    (folder / "without.gguf").write_bytes(whole.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.other_"))
    (folder / "many").mkdir(exist_ok=True)
    for name in ("one", "other"):
        shutil.copy(folder / "four_bits.gguf", folder / "many" / f"{name}.gguf")
    with pytest.raises(ConfigError, match=message):
        EngineModel.create_from_arg_string(arguments.format(folder))
