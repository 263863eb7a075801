"""The tables on the pages have the rows and columns of today, and the tool that renews the pages does."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import warm_process
from lm_eval_out import lm_eval_folder
from serving import serving

from tools import run_docs
from tools.check_docs import FENCE, ROOT, pages

# Their rows are others; the first two need a server.
SPECIAL = ("model=api", "model=hybrid", "task.samples=", "task.check_", "task.context=", "plan=quick", "task=split",
           "task.reference=", "task.until=", "--lm-eval")  # fmt: skip


def kind(command: str, table: run_docs.Table) -> str:
    """Name a kind of table, those with rows of their own apart."""
    return " ".join([*(word for word in SPECIAL if word in command), table.kind])


SHOWN = [
    (f"{page.relative_to(ROOT)}: {item.command.splitlines()[0]}: {table.kind}", kind(item.command, table), table)
    for page in pages()
    for block in FENCE.findall(page.read_text(encoding="utf-8"))
    for item in run_docs.shown_in(block)
    for table in run_docs.tables(item.output)
]
# One small run for each kind of table on the pages.
SMALL = """
runner task.limit=2
runner task.limit=2 task.check_invariance=1 task.check_contamination=1
runner task.limit=2 task.samples=2 generation=sampling
runner model=stub task.limit=2
runner model=stub task.limit=2 print=json
runner -m quantization=none,nf4 task.limit=2 workers=1
runner -m quantization=none,fp4 task.limit=2 plan=true
runner-compare --grid last --baseline quantization=none
runner-compare --where "quantization.name='nf4'"
runner-compare --lm-eval out_hf out_nf4
runner task=generate task.prompts=prompts.txt generation.max_new_tokens=4
runner task=sweep task.batch_sizes=[1] task.prompt_tokens=[16] task.new_tokens=4 task.repeats=3 task.arrival_rates=[4] task.arrival_requests=2
runner task=memory task.repeats=2 task.batch_size=1 task.prompt_tokens=16 task.new_tokens=2
runner task=memory task.repeats=2 task.batch=[1,2] task.context=[16,32] task.new_tokens=2
runner -m quantization=int8 generation=greedy,sampling task.limit=2 plan=quick
runner task.limit=2 quantization=int8 task.until=quantization=none
runner task=likelihood task.limit=2 task.keep_top_k=64
runner task=likelihood task.limit=2 quantization=nf4 task.reference=quantization=none
runner task=split task.num_parts=2 plan=true
runner task=split task.num_parts=2 task.output_dir=parts
runner task=verify task.parts=parts
runner task=archive task.parts=parts task.output_dir=packed
runner task=merge task.parts=packed task.output_dir=whole
runner task=pipeline task.parts=parts task.prompt="2+2?" generation.max_new_tokens=4
"""
MODULES = {"runner": "runner", "runner-compare": "runner.compare", "runner-advise": "runner.advise"}


def today(folder: Path) -> dict[str, list[str]]:
    """Make the small runs in a folder; return the names in every kind of table."""
    (folder / "prompts.txt").write_text("2+2?\n3+3?\n")
    for name, solved in (("out_hf", [1.0, 1.0]), ("out_nf4", [1.0, 0.0])):
        lm_eval_folder(
            folder / name, {which: {"exact_match": solved} for which in ("flexible-extract", "strict-match")}
        )
    found: dict[str, list[str]] = {}
    (folder / "server").mkdir()
    with serving(folder / "server", "tracking=none") as server:
        address = f"base_url=http://127.0.0.1:{server.port}/v1"
        remote = [f"model=api model.{address} model.name=embedded"]
        remote += [f"model=hybrid model.student.name=embedded model.teacher.{address} model.teacher.name=embedded"]
        for line in [*SMALL.strip().splitlines(), *(f"runner task.limit=2 {words}" for words in remote)]:
            program, *arguments = shlex.split(line)
            code, out, err = warm_process.run(MODULES[program], arguments, timeout_s=300, cwd=folder)
            assert code == 0, f"{line}\n{err}"
            found |= {kind(line, table): table.names for table in run_docs.tables(run_docs.tidy(out, folder))}
    return found


@pytest.mark.slow
def test_tables_on_the_pages_have_the_rows_and_columns_of_today(
    tmp_path: Path, new_database: Callable[[Path], None]
) -> None:
    new_database(tmp_path / "outputs" / "mlflow.db")
    found, wrong = today(tmp_path), list[str]()
    for where, which, shown in SHOWN:
        assert which in found, f"{where}: no small run shows such a table: add one"
        names = [name for name in found[which] if name in shown.names] if shown.excerpt else found[which]
        wrong += [f"{where}: {shown.names}, today: {names}"] if shown.names != names else []
    assert not wrong, "\n".join(wrong)


def test_the_pages_show_tables() -> None:
    assert len(SHOWN) > 30


def test_a_page_is_renewed_and_excerpts_stay(tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "page.md"
    before = "# Title\n\n```\n$ W=new\n$ echo $W \\\n  $PWD\nold .../x\n$ seq 3\n1\n…\n$ true\n```\n\n```\n$ shown alone\n```\n"
    page.write_text(before)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert run_docs.renewed(page, folder) == before.replace("old .../x", "new ...")
    assert "an excerpt of\n$ seq 3\n1\n2\n3" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_a_missing_row_is_seen() -> None:
    lines = ["model=stub  quantization=none  lora=none  rope=native  generation=greedy  task=gsm8k", "", "  n   3", ""]
    (table,) = run_docs.tables(lines)
    assert table == run_docs.Table("gsm8k by the stub", ["n"])
