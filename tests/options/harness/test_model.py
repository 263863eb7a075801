"""The engine as a model of lm-evaluation-harness gives the results of lm-eval's own HF model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from raising import raises
from thoughtful import thinking_model

from runner.options.harness.model import EngineModel, split_lm_eval_model_args
from runner_base.errors import Code, ConfigError
from runner_engine.embedded import MODEL_DIR
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests

QUESTIONS = [
    "Question: Ann has 3 apples and buys 4 more. How many apples does Ann have?\nAnswer:",
    "Question: Bob reads 12 pages a day. How many pages does he read in 5 days?\nAnswer:",
    "Question: Tom has 9 pens. He gives away 2 of them, and then 3. How many pens are left?\nAnswer:",
]
CHOICES = [" 7", " 12 apples", " 60", " four"]
LENGTH = 96  # the model's length, so short that some texts do not fit


@pytest.fixture(scope="module")
def ours() -> EngineModel:
    return EngineModel.create_from_arg_string(
        f"pretrained={MODEL_DIR},dtype=float32,max_length={LENGTH}", {"batch_size": 1, "device": "cuda:0"}
    )


@pytest.fixture(scope="module")
def theirs() -> Any:
    return HFLM(pretrained=str(MODEL_DIR), dtype="float32", device="cpu", batch_size=4, max_length=LENGTH)


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=at) for at, one in enumerate(arguments)]


@pytest.mark.thorough
def test_answers_are_the_same(ours: EngineModel, theirs: Any) -> None:
    settings: list[dict[str, Any]] = [
        {"until": ["Question:", "\n\n"], "do_sample": False, "max_gen_toks": 24},
        {"until": ".", "temperature": 0.0, "max_gen_toks": 8},
        {"until": [], "max_gen_toks": 40},
    ]
    long = " ".join(QUESTIONS)  # its beginning is cut off
    requests = [(text, how) for text in (*QUESTIONS, long) for how in settings]
    texts = ours.generate_until(instances("generate_until", *requests), disable_tqdm=True)
    assert texts == theirs.generate_until(instances("generate_until", *requests), disable_tqdm=True)
    assert len(set(texts)) > 5


def test_log_likelihoods_are_the_same(ours: EngineModel, theirs: Any) -> None:
    pairs = [
        (text, choice) for text in (*QUESTIONS, " ".join(QUESTIONS), "A space ", "") for choice in CHOICES
    ]
    pairs.append(
        (
            QUESTIONS[0],
            ours.generate_until(instances("generate_until", (QUESTIONS[0], {"max_gen_toks": 4})))[0],
        )
    )
    by_ours = ours.loglikelihood(instances("loglikelihood", *pairs), disable_tqdm=True)
    by_theirs = theirs.loglikelihood(instances("loglikelihood", *pairs), disable_tqdm=True)
    assert [greedy for _, greedy in by_ours] == [greedy for _, greedy in by_theirs]
    assert by_ours[-1][1]
    assert [one for one, _ in by_ours] == pytest.approx([one for one, _ in by_theirs], abs=1e-4)


def test_log_likelihoods_of_whole_texts_are_the_same(ours: EngineModel, theirs: Any) -> None:
    texts = [(" ".join(QUESTIONS * 2),), (QUESTIONS[1],), ("x",)]
    by_ours = ours.loglikelihood_rolling(instances("loglikelihood_rolling", *texts), disable_tqdm=True)
    by_theirs = theirs.loglikelihood_rolling(instances("loglikelihood_rolling", *texts), disable_tqdm=True)
    assert by_ours == pytest.approx(by_theirs, rel=1e-6, abs=1e-4)


def test_properties_of_the_model_are_the_same(ours: EngineModel, theirs: Any) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(turns) == theirs.apply_chat_template(turns)
    assert ours.chat_template(True) == theirs.chat_template(True)
    for name in ("eot_token_id", "prefix_token_id", "max_length", "max_gen_toks"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_model_info()["model_num_parameters"] == theirs.get_model_info()["model_num_parameters"]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"num_beams": 4}, "unsupported"),
        ({"typical_p": 0.9}, "unknown_choice"),
        ({"do_sample": True}, "conflict"),
        ({"max_gen_toks": LENGTH}, "too_large"),
    ],
)
def test_unsupported_settings_are_rejected(ours: EngineModel, settings: dict[str, Any], code: Code) -> None:
    (key,) = settings
    with raises(ConfigError, code, key):
        ours.generate_until(instances("generate_until", ("Hi", settings)), disable_tqdm=True)


def test_thinking_needs_its_end_and_scores_no_given_answers(
    ours: EngineModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(ConfigError, "missing", "enable_thinking"):
        EngineModel(enable_thinking=True)
    monkeypatch.setattr(ours, "enable_thinking", True)
    (request,) = instances("loglikelihood", (QUESTIONS[0], CHOICES[0]))
    request.task_name = "arc_easy"
    with raises(ConfigError, "unsupported", "enable_thinking"):
        ours.loglikelihood([request])


@pytest.mark.thorough
@pytest.mark.slow
def test_a_thought_is_no_part_of_an_answer(tmp_path: Path) -> None:
    keys = f"pretrained={thinking_model(tmp_path / 'thinks')},dtype=float32,generation.thinking_tokens=9"
    how = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 40}
    texts = []
    for end in ("", ",think_end_token=</think>"):
        model = EngineModel.create_from_arg_string(keys + end, {"batch_size": 1})
        context = model.apply_chat_template([{"role": "user", "content": QUESTIONS[0]}])
        assert context.endswith("<think>\n")
        texts += model.generate_until(instances("generate_until", (context, how)), disable_tqdm=True)
        (completion,) = complete_requests(model.engine, [Request(0, context, max_new_tokens=40)])
    assert completion.answer.thinking_tokens == 9
    assert texts == [completion.answer.text.split("\n\n")[0]] * 2


def test_sampled_answers_depend_on_the_seed(ours: EngineModel) -> None:
    def draw(**more: Any) -> str:
        how = {"do_sample": True, "temperature": 1.5, "max_gen_toks": 16, **more}
        return ours.generate_until(instances("generate_until", (QUESTIONS[0], how)), disable_tqdm=True)[0]

    assert draw() == draw()
    assert len({draw(seed=seed) for seed in range(4)}) > 1


def test_groups_and_their_keys_are_split_from_the_models_keys() -> None:
    groups, own = split_lm_eval_model_args(
        {"rope": "yarn", "rope.factor": 4, "quantization": "nf4", "dtype": "auto", "model.device": "cpu"}
    )
    assert groups == {
        "rope": {"name": "yarn", "factor": 4},
        "quantization": "nf4",
        "lora": None,
        "generation": None,
    }
    assert own == {"dtype": "auto", "device": "cpu"}


def test_a_quantized_model_with_an_adapter_answers() -> None:
    quantized = EngineModel(quantization="int8", lora="embedded_pth")
    (answer,) = quantized.generate_until(
        instances("generate_until", (QUESTIONS[0], {"max_gen_toks": 4})), disable_tqdm=True
    )
    assert answer
    info = quantized.get_model_info()
    assert info["runner_architecture"]
    assert quantized.report.metrics["quantized_modules"] > 0
    assert quantized.report.metrics["lora_modules"] > 0
