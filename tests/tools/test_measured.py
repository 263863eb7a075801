"""What is measured is told apart from what a run says, in reports, tables, lines of JSON and
sentences."""

from __future__ import annotations

import pytest

from tools import measured

REPORT = """model=embedded  quantization=none  lora=none  rope=native  generation=greedy  task=gsm8k

  accuracy       93.5%   n = 200
  speed          prefill 31,831 tok/s · decode 12,377 tok/s
  memory         32.88   weights 6.07
  process memory   762 MiB at most
  seconds        18.7
  load           2.52 s · peak 580 MiB, then 579 MiB resident
  job            gsm8k-8ef98b7853d8

MLflow run 527be0a615ae46d99937c88c9eab8840. See all: mlflow ui
"""
GRID = """
  job                  quantization   status          accuracy [95 %]     n   decode tok/s   peak RSS MiB   seconds
 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────
  gsm8k-8ef98b7853d8   none           done before   93.5 [89.2, 96.2]   200          7,922            752       7.3
  gsm8k-aa83b8fe3994   nf4            finished      30.0 [24.1, 36.7]   200          4,626            844      13.3
"""
COMPARED = """gsm8k: 2 runs
                                    memory  peak RSS  decode  load
lora    n             accuracy         MiB       MiB   tok/s     s
──────────────────────────────────────────────────────────────────
none  200  30.0 % [24.1, 36.7]        45.8       844   4,626   4.5
peft  200  85.0 % [79.4, 89.3]        48.3     1,003   3,148  7.26
• peft vs none (n=200): better
• no Pareto front: speed counts only where a job had a process to itself. Left out: gsm8k-aa (on 1.6 of 2 cores)
"""
PLAN = """
  job                  state   peak MiB   fits   time           basis
 ─────────────────────────────────────────────────────────────────────────
  gsm8k-515dc2cb4c90   to do   462        yes    ≤ 3:37         calibrated

Free: 19,311 MiB of main memory
1 job: 1 to do, 0 done; one after another at most 7:37
"""
JSON = '{"job_id": "gsm8k-01", "metrics": {"accuracy": 0.5, "seconds": 0.2, "peak_rss_mib": 238.7}, "mlflow_run_id": "3fdc"}'
SAME = [
    (REPORT, [("31,831", "9"), ("762", "1,762"), ("18.7", "8"), ("2.52 s", "12.1 s"), ("527be", "0aaaa")]),
    (GRID, [("7,922", "17,922"), ("    752", "  1,752"), ("13.3", "1.3")]),
    (GRID, [("decode tok/s", "  decode tok/s"), ("   7,922", "     7,922"), ("   4,626", "     4,626")]),
    (COMPARED, [("4,626", "  626"), ("  844", "1,844"), (" 7.26", " 9.26"), ("1.6 of 2", "1.3 of 2")]),
    (PLAN, [("≤ 3:37", "≤ 9:37"), ("19,311", "2"), ("at most 7:37", "at most 1 s")]),
    (JSON, [("0.2,", "0.3,"), ("238.7", "240"), ("3fdc", "4fdc")]),
]
OTHER = [
    (REPORT, "93.5%", "94.5%"),
    (REPORT, "8ef98b7853d8", "515dc2cb4c90"),
    (REPORT, "32.88", "31.88"),
    (GRID, "done before", "finished   "),
    (GRID, "[24.1", "[24.2"),
    (COMPARED, "45.8", "45.9"),
    (COMPARED, "better", "worse"),
    (PLAN, "462 ", "461 "),
    (PLAN, "calibrated", "recorded  "),
    (JSON, '"accuracy": 0.5', '"accuracy": 0.6'),
    (JSON, '"seconds"', '"second"'),
]


@pytest.mark.parametrize(("text", "changes"), SAME)
def test_other_times_say_the_same(text: str, changes: list[tuple[str, str]]) -> None:
    now = text
    for was, then in changes:
        assert was in now
        now = now.replace(was, then)
    assert measured.same("runner", text.splitlines(), now.splitlines())


@pytest.mark.parametrize(("text", "was", "now"), OTHER)
def test_other_results_do_not(text: str, was: str, now: str) -> None:
    assert was in text
    assert not measured.same("runner", text.splitlines(), text.replace(was, now).splitlines())


def test_of_a_measurement_only_the_names_and_the_job_count() -> None:
    sweep = [
        "model=stub  quantization=none  lora=none  rope=native  generation=greedy  task=sweep",
        "",
        "  knee   3",
        "  job    sweep-2b1622bb9cca",
        "",
    ]
    other = [line.replace("knee   3", "knee   4") for line in sweep]
    assert measured.same("runner task=sweep", sweep, other)
    assert not measured.same("runner task=sweep", sweep, [line.replace("knee", "bend") for line in sweep])
    assert not measured.same("runner task=sweep", sweep, [line.replace("2b1622", "2b1623") for line in sweep])


def test_what_a_team_holds_at_once_is_measured() -> None:
    other = [line.replace("32.88", "31.88") for line in REPORT.splitlines()]
    assert measured.same("runner task=agents task.limit=3", REPORT.splitlines(), other)
    assert not measured.same(
        "runner task=agents", REPORT.splitlines(), [line.replace("93.5", "94") for line in other]
    )


def test_ids_of_jobs_over_parts_rest_on_when_these_were_written() -> None:
    assert measured.same("runner", ["  job   merge-50809a684889"], ["  job   merge-68f2d297edbe"])
    assert not measured.same("runner", ["  job   split-50809a684889"], ["  job   split-68f2d297edbe"])
