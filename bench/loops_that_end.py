"""Do answers that are in a loop ever end? `python bench/loops_that_end.py JOB_FOLDER…`, of jobs of task=generate.

Each answer is cut at several numbers of tokens. Of those that are in a loop there, the table counts the answers that
ended later, and those that left the loop by the end of the record. The runner judges an answer that a token limit cut
off in a loop as if it were complete. So an answer that ends after all would be judged wrongly.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from engines import markdown
from heading import parse_arguments

from runner_base.degeneration import find_loop_at_end
from runner_compare.statistics import compute_clopper_pearson_interval

CUTS = (128, 256, 512, 1024)


def count_loops(answers: list[dict[str, Any]], tokenizer: Any, cut: int) -> tuple[int, int, int]:
    """Return the answers in a loop at a token, and of these the ended ones and those that left the loop."""
    in_loop = ended = left = 0
    for answer in answers:
        tokens = answer["token_ids"]
        if len(tokens) <= cut or find_loop_at_end(tokenizer.decode(tokens[:cut])) is None:
            continue
        in_loop += 1
        ended += answer["finish_reason"] == "stop"
        left += find_loop_at_end(tokenizer.decode(tokens, skip_special_tokens=True)) is None
    return in_loop, ended, left


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help="job folders with samples.jsonl and config.yaml"
    )
    parser.add_argument("--tokenizer", required=True, help="model folder whose tokenizer made the tokens")
    options = parse_arguments(parser)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    rows, totals = [], dict.fromkeys(CUTS, (0, 0, 0))
    for folder in options.folders:
        answers = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        for cut in CUTS:
            counts = count_loops(answers, tokenizer, cut)
            totals[cut] = tuple(map(sum, zip(totals[cut], counts, strict=True)))  # type: ignore[assignment]
            rows.append([folder.name, f"{cut}", *map(str, counts), ""])
    for cut, (in_loop, ended, left) in totals.items():
        most = compute_clopper_pearson_interval(ended, in_loop)[1] if in_loop else 1.0
        rows.append(["all", f"{cut}", f"{in_loop}", f"{ended}", f"{left}", f"{100 * most:.1f} %"])
    print(f"`python {' '.join(sys.argv)}`\n")
    print(markdown(["job", "cut at", "in a loop", "ended", "left it", "ended at most (95 %)"], rows))


if __name__ == "__main__":
    main()
