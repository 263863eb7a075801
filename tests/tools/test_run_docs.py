"""The tables on the pages have the rows and columns of today, and the tool that renews the pages
does."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lm_eval_out import lm_eval_folder
from options_here import absent, is_possible
from serving import serving
from vllm_standin import VllmStandIn

from tools import embedded_gguf, families, page_machine, run_docs, shown
from tools.check_docs import FENCE, ROOT, pages

# Their rows are others; the first two need a server.
SPECIAL = (
    "model=api", "model=hybrid", "model=parts", "task.samples=", "task.rotate=", "task.check_", "task.context_lengths=",
    "plan=quick", "task=split", "task.show_prompt=", "task.reference=", "task.early_stop_vs=", "--lm-eval", "inference_sweep", "split_parts", "--margin", "--results", ".gguf task=generate",
    "max_new_tokens=40", "model=vllm",
)  # fmt: skip
WITHOUT_SPEED = "without speed"  # the last line of the head of the Pareto front
WITHIN = {"make demo": "runner-compare --margin 2"}  # the command whose table another command shows


def kind(command: str, table: shown.Table) -> str:
    """Name a kind of table, those with rows of their own apart."""
    command = WITHIN.get(command, command) if table.kind == "comparison" else command
    return " ".join([*(word for word in SPECIAL if word in command), table.kind])


SHOWN = [
    (
        f"{page.relative_to(ROOT)}: {item.command.splitlines()[0]}: {table.kind}",
        kind(item.command, table),
        table,
    )
    for page in pages()
    for block in FENCE.findall(page.read_text(encoding="utf-8"))
    for item in shown.shown_in(block)
    for table in shown.tables(item.output)
]
# One small run for each kind of table on the pages: those that load nothing of a size, and all
# others. The first plan stands before any job: afterwards a plan has times, too.
QUICK = """
runner model=stub task.limit=2 task.show_prompt=1 plan=true
runner model=stub task.limit=2
runner model=stub task.limit=2 print=json
runner -m quantization=none,fp4 task.limit=2 plan=true
runner-compare --lm-eval out_hf out_nf4
runner-compare --results logs/none logs/nf4 logs/cut_off
runner task=split task.num_parts=2 plan=true
runner task=split task.num_parts=2 task.output_dir=parts
runner task=verify task.parts=parts
"""
OTHERS = """
runner task.limit=2
runner task.limit=2 task.check_invariance=1 task.check_contamination=1
runner task.limit=2 task.samples=2 generation=sampling
runner -m quantization=none,nf4 task.limit=2 workers=1
runner-compare --grid last --baseline quantization=none
runner-compare --grid last --baseline quantization=none --margin 2
runner task.limit=3 quantization=nf4 print=none
runner-compare --where "quantization.name='nf4'"
runner task.limit=4 generation.max_new_tokens=40
runner -m generation.thinking_tokens=0,16 lora=embedded_thinking task.limit=2 print=none
runner-compare --grid last --baseline generation.thinking_tokens=16 --save page --columns all
runner task=generate task.prompts=prompts.txt generation.max_new_tokens=4
runner task=sweep task.batch_sizes=[1] task.prompt_tokens=[16] task.new_tokens=4 task.repeats=3 task.arrival_rates=[1,4,16] task.arrival_requests=2
runner task=memory task.repeats=2 task.batch_size=1 task.prompt_tokens=16 task.new_tokens=2
runner task=memory task.repeats=2 task.batch_sizes=[1,2] task.context_lengths=[16,32] task.new_tokens=2
runner -m quantization=int8 generation=greedy,sampling task.limit=2 plan=quick
runner task.limit=2 quantization=int8 task.early_stop_vs=quantization=none
runner tracking=none model=stub model.answer='#### B' task.data=sums.jsonl task.rotate=4
runner task=agents task.domain=brief lora=embedded_team task.limit=2
runner task=likelihood task.limit=2 task.keep_top_k=64
runner task=likelihood task.limit=2 quantization=nf4 task.reference=quantization=none
runner -cd {experiments} -cn split_parts task.num_parts=1,2
runner -cd {experiments} -cn inference_sweep quantization=none,nf4 task.batch_sizes=[1] task.prompt_tokens=[16] task.new_tokens=4 task.repeats=1
runner -cd {experiments} -cn which_file files=models task.limit=60 task.repeats=1 task.new_tokens=4 print=none
runner-compare --grid last --files
runner model=local model.name=models/Q4_0.gguf task=generate task.prompt="2+2?" generation.max_new_tokens=4
runner task=archive task.parts=parts task.output_dir=packed
runner task=merge task.parts=packed task.output_dir=whole
runner task=generate model=parts model.name=parts task.prompt="2+2?" generation.max_new_tokens=4
"""
REMOTE = """
runner task.limit=2 model=api model.base_url={url} model.name=embedded
runner -m model=vllm model.python={python} model.name=embedded model.dtype=float32 model.compare=false task.limit=2 seed=0,1
runner task.limit=2 model=hybrid model.student.name=embedded model.teacher.base_url={url} model.teacher.name=embedded
"""
MODULES = {"runner": "runner", "runner-compare": "runner_compare"}


def today(folder: Path, lines: str, runner: Callable[..., Any]) -> dict[str, shown.Table]:
    """Make small runs in a folder; return every kind of table."""
    found: dict[str, shown.Table] = {}
    for line in filter(is_possible, filter(None, lines.splitlines())):
        program, *arguments = shlex.split(line)
        done = runner(*arguments, module=MODULES[program])
        assert done.code == 0, f"{line}\n{done.err}"
        found |= {kind(line, table): table for table in shown.tables(page_machine.tidy(done.out, folder))}
    return found


def differing(found: dict[str, shown.Table]) -> list[str]:
    """The shown tables that have other rows or columns today, of the kinds that were found."""
    wrong = []
    for where, which, table in SHOWN:
        if which in found:
            now = found[which]
            names = [
                name for name in now.names_without(table.shared) if name in table.names or not table.excerpt
            ]
            shown_names = table.names_without(now.shared)
            # a Pareto front is shown where nothing else ran beside the jobs: on a page, or today
            ignored = {WITHOUT_SPEED, *now.left_out, *table.left_out}
            names, shown_names = (
                [name for name in some if name not in ignored] for some in (names, shown_names)
            )
            if which.startswith("rows of "):  # wide heads are wrapped, by the widths of their cells
                names, shown_names = (sorted(" ".join(some).split()) for some in (names, shown_names))
            wrong += [f"{where}: {shown_names}, today: {names}"] if shown_names != names else []
    return wrong


@pytest.fixture
def evaluated(tmp_path: Path) -> None:
    """Results of the harness and of inspect_ai in the folder of the runs, for their comparison."""
    (tmp_path / "logs").symlink_to(ROOT / "tests" / "data" / "inspect_ai")
    for name, solved in (("out_hf", [1.0, 1.0]), ("out_nf4", [1.0, 0.0])):
        lm_eval_folder(
            tmp_path / name,
            {which: {"exact_match": solved} for which in ("flexible-extract", "strict-match")},
        )


@pytest.mark.slow
@pytest.mark.usefixtures("evaluated")
def test_tables_that_cost_little_have_the_rows_and_columns_of_today(
    tmp_path: Path, runner: Callable[..., Any]
) -> None:
    found = today(tmp_path, QUICK, runner)
    assert found.keys() & {which for _, which, _ in SHOWN}
    assert not (wrong := differing(found)), "\n".join(wrong)


@pytest.mark.thorough
@pytest.mark.usefixtures("evaluated")
def test_all_tables_on_the_pages_have_the_rows_and_columns_of_today(
    tmp_path: Path, new_database: Callable[[Path], None], runner: Callable[..., Any]
) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    (tmp_path / "prompts.txt").write_text("2+2?\n3+3?\n")
    sums = [{"question": f"{n} + 1?", "choices": [n, n + 1, n + 2, n + 3], "answer": 1} for n in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(one) + "\n" for one in sums))
    (tmp_path / "server").mkdir()
    (tmp_path / "models").mkdir()
    for name in ("F16", "Q8_0", "Q4_0"):
        embedded_gguf.write(tmp_path / "models" / f"{name}.gguf", name)
    process = partial(runner, process=True)
    with serving(tmp_path / "server", "tracking=none") as server:
        remote = REMOTE.format(
            url=f"http://127.0.0.1:{server.port}/v1", python=VllmStandIn(tmp_path / "env").python
        )
        found = today(tmp_path, QUICK + OTHERS.format(experiments=ROOT / "experiments") + remote, process)
        assert server.stop(signal.SIGINT) == 0
        found |= {kind("^C", table): table for table in shown.tables(page_machine.tidy(server.out, tmp_path))}
    missing = [where for where, which, _ in SHOWN if which not in found]
    assert not missing or absent(), "no small run shows such a table: add one"
    assert not (wrong := differing(found)), "\n".join(wrong)


def test_the_pages_show_tables() -> None:
    assert len(SHOWN) > 30


PAGE = """# Title

<!-- first: echo hidden | tee seen.txt -->
```
$ W=new
$ echo $W \\
  $PWD
old .../x
$ cat seen.txt other.txt | head -1
hidden
$ cat other.txt
shown as it is
$ seq 3
9
…
$ ls missing
error: …
```

```
$ not-run
```

*Example* (no machine, 1 May 2026):

```
$ not-run either
4
```
"""


def a_page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


def test_a_page_is_renewed(tmp_path: Path) -> None:
    text = PAGE.replace("$ ls missing\nerror: …\n", "$ echo 'error: no' >&2; false\nerror: nothing\n")
    page = a_page(tmp_path, text.replace(" other.txt |", " |"))
    (example,) = run_docs.renew_story([page], times=False)
    assert example == "not run, an example: page.md:26: no machine, 1 May 2026"
    wanted = text.replace(" other.txt |", " |").replace("old .../x", "new ...").replace("\n9\n…", "\n1\n…")
    assert page.read_text() == wanted.replace("error: nothing", "error: no")


def test_a_second_run_changes_nothing_but_times(tmp_path: Path) -> None:
    line = "  seconds   $(date +%N)"
    page = a_page(tmp_path, f'```\n$ echo "{line}"\n  seconds   1\n```\n')
    assert run_docs.renew_story([page], times=False) == []
    assert "  seconds   1\n" in page.read_text()
    assert run_docs.renew_story([page], times=True) == []
    assert "  seconds   1\n" not in page.read_text()


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("$ ls missing\nthere", "page.md:3: $ ls missing: exit code 2"),
        ("$ echo hello\nerror: no", "page.md:3: $ echo hello: exit code 0"),
        ("$ echo hello\n…\nwholly other\n…", "nothing in this looks like the excerpt of $ echo hello"),
    ],
)
def test_what_cannot_be_renewed_is_named_and_its_page_stays(tmp_path: Path, block: str, why: str) -> None:
    page = a_page(tmp_path, before := f"# Title\n\n```\n{block}\n```\n")
    (said,) = run_docs.renew_story([page], times=True)
    assert said.startswith("failed: ")
    assert why in said
    assert page.read_text() == before


def test_a_command_that_asks_gets_the_lines_of_the_page(tmp_path: Path) -> None:
    chat = "printf 'you> '; read name; echo hello $name; printf 'you> '; read name; echo bye >&2"
    page = a_page(tmp_path, f"```\n$ {chat}\nyou> Ann\nhi Ann\nyou> quit\nbye\n```\n")
    assert run_docs.renew_story([page], times=False) == []
    assert page.read_text() == f"```\n$ {chat}\nyou> Ann\nhello Ann\nyou> quit\nbye\n```\n"


def test_a_server_runs_until_it_is_interrupted(tmp_path: Path) -> None:
    ends = "signal.signal(15, lambda *_: sys.exit(print('over')))"
    script = f"import signal, sys; {ends}; print('serving x', file=sys.stderr, flush=True); signal.pause()"
    text = (
        f'<!-- server: python -c "{script}" -->\n```\n$ head .server.err\nnothing\n```\n\n```\n^C\nold\n```\n'
    )
    page = a_page(tmp_path, text)
    assert run_docs.renew_story([page], times=False) == []
    assert page.read_text() == text.replace("nothing", "serving x").replace("old", "over")


def test_a_picture_is_made_by_its_command(tmp_path: Path) -> None:
    page = a_page(
        tmp_path, "<!-- picture: echo new | tee $PICTURE -->\n![it](it.png)\n\n```\n$ echo 2\n1\n```\n"
    )
    assert run_docs.renew_story([page], times=False) == []
    assert (tmp_path / "it.png").read_text() == "new\n"
    page.write_text(page.read_text().replace("| tee $PICTURE", ""))
    (said,) = run_docs.renew_story([page], times=False)
    assert said.startswith("not drawn: it.png")


def test_every_page_belongs_to_one_story() -> None:
    told = [page for story in run_docs.stories([]) for page in story]
    assert len(told) == len({*told})
    assert {ROOT / "README.md", ROOT / "docs/jobs.md", ROOT / "experiments/README.md", families.PAGE} <= {
        *told
    }
    assert list(run_docs.stories([ROOT / "docs/compare.md"])) == [
        [ROOT / "docs/models.md", ROOT / "docs/compare.md"]
    ]
