"""lm-evaluation-harness' own tests of a backend, applied to ours: `python bench/lm_eval_own_tests.py CHECKOUT`.

CHECKOUT is lm-eval's repository, whose tests are not in its package. They expect numbers of models and data sets on a
hub. Here the embedded model replaces the models, and its word problems replace the documents of data sets, with
lm-eval's own task definitions. The expected values are recorded from lm-eval's HF model. Then the same tests run with
that model, which shows that the replacements work, and with ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

from heading import parse_arguments

from runner.datasets.word_problems import Split, generate_problem
from runner_engine.embedded import MODEL_DIR

SIDES = ("hf", "runner")
HF, BOS, EVALUATOR = (
    "tests/models/test_huggingface.py",
    "tests/models/test_bos_handling.py",
    "tests/test_evaluator.py",
)
OURS = {
    "from lm_eval.models.huggingface import HFLM": "from runner.options.harness.model import EngineModel as HFLM",
    "    mock.tok_batch_encode = HFLM.tok_batch_encode.__get__(mock, HFLM)\n": "",
    '"hf",': '"runner",',
}
TENSORS = "asks for batches of tensors, which `hf` makes itself; here the engine does"
NOT_OURS = {  # by the beginning of a test's name
    "test_batch_encode": TENSORS,
    "test_model_generate": TENSORS,
    "test_huggingface_detects_bos_in_single_string": TENSORS,
    "test_huggingface_adds_bos_when_missing": TENSORS,
    "test_huggingface_follows_tokenizer_default": TENSORS,
    "test_huggingface_chat_template_no_duplicate_bos": TENSORS,
    "test_huggingface_seq2seq_skips_causal_bos_logic": TENSORS,
    "test_toc_decode": "asks for a method that lm-eval asks of no model",
    "test_loglikelihood_rejects_enable_thinking": "expects a ValueError; ours is refused as wrong input, exit code 2",
    "test_vllm": "tests another backend",
}
PASSED = "passed"
EXPECTED = "LM_EVAL_EXPECTED"  # the file of recorded numbers
APPENDED = f"""

import json, os
if os.path.exists(os.environ["{EXPECTED}"]):
    for _name, _value in json.load(open(os.environ["{EXPECTED}"])).items():
        setattr(Test_HFLM, _name, _value)
"""
CONFTEST = """
import lm_eval_own_tests
lm_eval_own_tests.stand_in()
"""


def main() -> None:
    """Make the replacements, record, run both sides, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    # CHECKOUT is the scratch folder then
    parser.add_argument("--record", action="store_true", help=argparse.SUPPRESS)
    options = parse_arguments(parser)
    if options.record:
        record(options.checkout)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(options.checkout, Path(folder))


def compare(checkout: Path, scratch: Path) -> None:
    """Run the tests on both sides and print each result."""
    words = stand_in_models(scratch)
    for side in SIDES:
        for name in (HF, BOS, EVALUATOR, "tests/conftest.py"):
            text = (checkout / name).read_text()
            for theirs, here in (words | (OURS if side == "runner" else {})).items():
                text = text.replace(theirs, here)
            file = scratch / side / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + (APPENDED if name == HF else ""))
        (scratch / side / "tests" / "testdata").mkdir()
        (scratch / side / "conftest.py").write_text(CONFTEST)
    run([sys.executable, __file__, str(scratch), "--record"], scratch / "hf", scratch)
    results = {side: {name: outcomes(name, side, scratch) for name in (HF, BOS, EVALUATOR)} for side in SIDES}
    print("| test | `hf` | `runner` |\n|---|---|---|")
    for name in (HF, BOS, EVALUATOR):
        for test in dict.fromkeys(one.split("[")[0] for one in results["hf"][name]):
            cells = [result_words(results[side][name], test) for side in SIDES]
            print(f"| `{Path(name).name}`: `{test}` | {cells[0]} | {cells[1]} |")
    print("\nDo not apply:\n")
    print("\n".join(f"- {name}: {reason}" for name, reason in NOT_OURS.items()))
    counts = [list(of_file.values()) for of_file in results["runner"].values()]
    passed = sum(outcome == PASSED for of_file in counts for outcome in of_file)
    print(f"\n{passed} of {sum(map(len, counts))} tests that apply pass with our model.")


def result_words(of_file: dict[str, str], test: str) -> str:
    """Return the results of a test with all its parameters."""
    outcomes_of_test = [outcome for name, outcome in of_file.items() if name.split("[")[0] == test]
    wrong = [outcome for outcome in outcomes_of_test if outcome != PASSED]
    return f"{len(outcomes_of_test) - len(wrong)} of {len(outcomes_of_test)}{': ' * bool(wrong)}{'; '.join(wrong)}"


def outcomes(name: str, side: str, scratch: Path) -> dict[str, str]:
    """Return the result of each test of a file that applies to ours."""
    report = scratch / f"{side}.xml"
    chosen = " and ".join(f"not {beginning}" for beginning in NOT_OURS)
    quiet = ["-q", "-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider"]
    options = [*quiet, f"--junitxml={report}", "-k", chosen]
    run([sys.executable, "-m", "pytest", *options, name], scratch / side, scratch, may_fail=True)
    outcome_by_test = {}
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        outcome_by_test[str(case.get("name"))] = (
            PASSED if wrong is None else f"**{wrong.tag}**: {(wrong.get('message') or '')[:200]}"
        )
    return outcome_by_test


def run(command: list[str], folder: Path, scratch: Path, may_fail: bool = False) -> None:
    """Run a command in a folder, with the environment that the replacements need."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), str(folder)])
    more = {EXPECTED: str(scratch / "expected.json"), "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | more, capture_output=True, text=True, check=False
    )
    if done.returncode and not (may_fail and done.returncode == 1):
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def stand_in_models(scratch: Path) -> dict[str, str]:
    """Write the model and the tokenizers; return the replacements for the tests' text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = scratch / "model"
    shutil.copytree(MODEL_DIR, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = "<|endoftext|>"  # theirs have one
    tokenizer.save_pretrained(folder)
    foo_bar, bar_foo = (tokenizer.encode(text) for text in ("foo bar", "bar foo"))
    begins = tokenizer.bos_token
    own = TemplateProcessing(single=f"{begins} $A", special_tokens=[(begins, tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = own
    tokenizer.save_pretrained(scratch / "begins")
    models = dict.fromkeys(("pythia-14m-deduped", "pythia-14m", "pythia-70m", "pythia-160m"), str(folder))
    return {
        **{f"EleutherAI/{name}": place for name, place in models.items()},
        "allenai/OLMo-3-7B-Instruct": str(scratch / "begins"),
        "[[12110, 2534], [2009, 17374]]": str([foo_bar, bar_foo]),
        "[12110, 2534]": str(foo_bar),
    }


def stand_in() -> None:
    """Let this process read our documents, find lm-eval's tasks only once, and register our
    model."""
    import datasets
    from lm_eval.tasks._index import TaskIndex

    from runner.options.harness.command import register_model_with_lm_eval

    datasets.load_dataset = documents
    build: Any = TaskIndex.build
    built: dict[str, Any] = {}

    def once(paths: Any, **how: Any) -> Any:
        """Read the thousands of files of tasks once for all evaluations."""
        key = str([*paths])
        if key not in built:
            built[key] = build(paths, **how)
        return deepcopy(built[key])

    TaskIndex.build = staticmethod(once)
    register_model_with_lm_eval()


def documents(path: str, name: str | None = None, **_: Any) -> Any:
    """Return a data set in the shape of the one that a task names."""
    from datasets import Dataset, DatasetDict

    first = Random(f"{path} {name}").randrange(10_000)
    splits = {"train": 0, "validation": 100, "test": 200, "dev": 300}
    listed = {split: [document(path, first + far + at) for at in range(12)] for split, far in splits.items()}
    return DatasetDict({split: Dataset.from_list(rows) for split, rows in listed.items()})


def document(path: str, at: int) -> dict[str, Any]:
    """Return one document: an embedded word problem in the data set's form."""
    one = generate_problem(Split.TEST, at)
    gold, right = int(one.gold), at % 4
    choices = [str(gold + number - right) for number in range(4)]
    if "arc" in path:
        named = {"text": choices, "label": ["A", "B", "C", "D"]}
        return {"id": str(at), "question": one.question, "choices": named, "answerKey": "ABCD"[right]}
    if "gsm8k" in path:
        return {"question": one.question, "answer": one.answer}
    if "mmlu" in path:
        return {"question": one.question, "choices": choices, "answer": right}
    if "wikitext" in path:  # the long ones do not fit into the model at once
        return {
            "page": " ".join(
                generate_problem(Split.TEST, at + more).question for more in range(4 + 8 * (at % 6))
            )
        }
    return {"text": f"{one.question} {one.answer.splitlines()[0].rstrip('.')}"}


def record(scratch: Path) -> None:
    """Write the results of lm-eval's HF model as the tests' expected values."""
    import lm_eval.evaluator as evaluator
    from lm_eval.utils import make_table

    stand_in()
    tests = module(scratch / "hf" / HF).Test_HFLM
    expected = {
        "MULTIPLE_CH_RES": [nats for nats, _ in tests.LM.loglikelihood(tests.MULTIPLE_CH)],
        "generate_until_RES": tests.LM.generate_until(tests.generate_until),
        "ROLLING_RES": tests.LM.loglikelihood_rolling(tests.ROLLING),
    }
    (scratch / "expected.json").write_text(json.dumps(expected))
    printed = module(scratch / "hf" / EVALUATOR).test_printed_results
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 0)
    for tasks, limit, model, arguments in printed.pytestmark[0].args[1]:
        results = evaluator.simple_evaluate(
            model=model, model_args=arguments, tasks=tasks, limit=limit, bootstrap_iters=0, **seeds
        )
        for side in SIDES:  # the name that the test makes of its arguments
            words = "".join(sign if sign.isalnum() or sign in "_-." else "-" for sign in arguments)
            file = scratch / side / "tests" / "testdata" / f"{'-'.join(tasks)}_{limit}_{side}_{words}.txt"
            file.write_text(make_table(results))


def module(path: Path) -> Any:
    """Import a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


if __name__ == "__main__":
    main()
