"""Usage, descriptions and examples in the help of `runner-compare gate` and `runner-compare pack`."""

GATE_USAGE = "runner-compare gate BASELINE [RESULTS ...] --margin LOSS [OPTION ...]"
GATE = "Decide whether candidates may ship: GO, NO-GO, or ASK for more questions."
GATE_EXAMPLES = """exit code: 0 GO, 1 NO-GO (or a candidate has no result), 2 cannot run, 3 ASK (undecided)

examples:
  runner-compare gate baseline.runner.gz outputs --margin 2 --expect int8,nf4
  runner-compare gate quantization=none --grid last --margin 2 --min accuracy=0.8
  runner-compare gate baseline.runner.gz outputs --margin 2 --history nights.jsonl
  runner-compare gate baseline.runner.gz outputs --margin 2 --summary "$GITHUB_STEP_SUMMARY" --junit gate.xml
  runner-compare gate history nights.jsonl"""
PACK_USAGE = "runner-compare pack JOB -o FILE.runner.gz"
PACK = "Pack a finished job into one small file, which other machines can use as the baseline of a gate."
PACK_EXAMPLES = """examples:
  runner-compare pack quantization=none -o baseline.runner.gz
  runner-compare pack quantization=none --task memory -o memory.runner.gz
  runner-compare pack outputs/jobs/gsm8k-c4c685bd0c97 -o baseline.runner.gz"""
HISTORY_USAGE = "runner-compare gate history FILE [--save PICTURE]"
HISTORY = "Show each candidate's verdict and difference from the baseline, for all nights in a history file."
HISTORY_EXAMPLES = """examples:
  runner-compare gate history nights.jsonl
  runner-compare gate history nights.jsonl --save nights.png"""
