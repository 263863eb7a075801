"""What is meant to differ between the checkouts that same_answers.py compares, each with its reason.

The lists are for 94f824b and what came after it. They may not hide more than they name: a pattern of the whole line, of
one key or of one file, and where words have changed, both are compared as the new ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Renamed:
    """Words of a command that are others in a checkout which still has a file."""

    file: str
    new: str
    old: str


RENAMED = [
    Renamed("conf/task/pipeline.yaml", "task=generate model=parts model.name=", "task=pipeline task.parts="),
    Renamed("conf/task/pipeline.yaml", "model.stages=", "task.processes="),
    Renamed("conf/task/pipeline.yaml", "model.micro_batch=", "task.micro_batch="),
    Renamed("runner/tasks/gsm8k_until.py", "task.early_stop_vs=", "task.until="),
    Renamed("runner/tasks/gsm8k_until.py", "task=memory task.batch_sizes=", "task=memory task.batch="),
    Renamed("runner/tasks/gsm8k_until.py", "task.context_lengths=", "task.context="),
]


@dataclass(frozen=True)
class Allowed:
    """A difference that is meant: regular expressions of the case, of the place and of what differs, and why."""

    case: str
    where: str
    how: str
    reason: str


@dataclass(frozen=True)
class Reworded:
    """Words that were others before: regular expressions, what they have become, and why."""

    reason: str
    words: dict[str, str]


SAMPLING, DATA_SETS = "min_p|frequency_penalty|presence_penalty", "subset|choices_key|gold|gold_after|shots_split"
ADDED = "keys that were added: three of sampling, those of data sets, and real prompts in a sweep"
EARLY_STOP = "task.until is called task.early_stop_vs"
POINTS = "batch and context of task=memory are called batch_sizes and context_lengths"
CHOICES = "the name of a choice is no key: a comment of --cfg job names the choices"
STDERR = "stderr of a single job no longer says what the table on stdout or its log.txt says"
COMPLETIONS = (
    "model=parts shows completions in a table, as other models do; samples.jsonl and completions.jsonl are compared"
)
PARTS = "task=pipeline is model=parts with other tasks"
LOCAL_KEYS = "revision|cache_dir|device_map|max_memory|shape|random_weights|trust_remote_code"
SANDBOX = "programs cannot see which files exist, and what is no number does not count as an answer"
SEARCH = "a search ends with a table of its trials and the best one"
COLUMNS = "lines and tables of a grid show what its jobs have measured: the time to a first token, the parts of a split"
MEASURED_OF_PARTS = r"  (?:num parts  largest part MiB  balance|\d  [\d.]+  [\d.]+)  "
SENTENCES = {  # before -> after, wherever a line is folded
    "what is on:": "loaded model:",
    "log to MLflow what is recorded on disk and not there yet.": (
        "log recorded results to MLflow that it does not have yet."
    ),
    "peak: what weights, KV cache and activations take at once, a worker's own 600 MiB not counted.": (
        "peak: weights, KV cache and activations together, without the 600 MiB of the worker process."
    ),
    "this is not the form that it knows (task.prompt=chat)": "use task.prompt=chat",
    "resident memory over that of the import; of the load, where pages of the checkpoint come and go, memory that is "
    "no file's, looked at every": (
        "resident memory above that of the import; during the load, only memory that belongs to no file counts, "
        "sampled every"
    ),
    "every token but a text's first is scored once, behind": "every token but a text's first is scored once, after",
    "and hang together more than samples should": "although they are not independent",
    "What the parts are for: a model that fits no single machine's memory, stages on CPUs, parts that are stored, "
    "shipped or verified one by one.": (
        "Use the parts for a model that fits no single machine's memory, for stages on CPUs, and to store, ship or "
        "verify parts one by one."
    ),
    "which the program that wrote them had on unless told otherwise;": "the default of the program that wrote them;",
    "to try it all the same": "to try it anyway",
    "this engine does not tell when each token came": "this engine does not report when each token came",
    "what this model computes and reads is not known here, so its cells are not compared with the machine": (
        "how much this model computes and reads is unknown, so its cells are not compared with the machine's limits"
    ),
    "verified, not run as a pipeline": "verified, but not run as a pipeline",
    "is none: use model=local": "is not one: use model=local",
    "name them where they go by other names)": "name them if they have other names)",
    "is no .pth file that torch can read: empty, cut short": "is not a .pth file that torch can read: empty, truncated",
    "truncated or no safetensors file": "truncated or not a safetensors file",
}
QUESTIONS = "only|without|cluster|repeat|early_stop_margin|early_stop_comparisons"
KEYS_OF_QUESTIONS = "keys that were added: which questions, their families, a repeated run, a margin"
ASKED_AGAIN = "of 500 questions and more 1 % are asked again, to see whether rows change each other's answers"
PRODUCTS = "a job says how its products are computed, and whether its rows are independent"
VERDICTS = "columns of verdicts within a margin: comparison.json and .csv have them whether one is given or not"
CONCLUSION = "a comparison begins with what may be concluded over all rows, and draws the intervals"
PLANNED = "a plan says which differences its questions can detect"
POWER = "what could be detected is planned with the worse of two pictures of disagreement"
ORDER_OF_SUMS = "an interval is summed in another order: the 16th digit"
LEVEL = "bets share one budget of error, and a job records its level"
INT8_DYNAMIC = "quantization=int8_dynamic is new"
FOLDED = "a paragraph in plain English is folded elsewhere"
VLLM = "'VLLM_PP_LAYER_PARTITION=2,2 vllm serve .*"
ALLOWED = [
    Allowed("docs/vllm", "<split 1>/result.json result text$", f"^{VLLM} became {VLLM}$", FOLDED),
    Allowed("docs/convert", ", stdout ", r"^'(note: rope=native: .* use)' became '\1 rope=rope_2d'$", FOLDED),
    Allowed("docs/convert", ", stdout ", "^'rope=rope_2d' is gone$", FOLDED),
    Allowed("docs/vllm", ", stdout ", "Use the parts for a model|single machine's memory", FOLDED),
    Allowed(
        "part", rf" params (model\.({LOCAL_KEYS})|task\.(parts|processes|micro_batch|timeout_s))$", "^is gone$", PARTS
    ),
    Allowed("part", r" params model\.(stages|backend|micro_batch|timeout_s)$", "^is new$", PARTS),
    Allowed("part", r" params task\.(branches|output|overwrite|debug)$", "^is new$", PARTS),
    Allowed("part", r" params model\.name$", "^'embedded' became 'parts'$", PARTS),
    Allowed("part", "<generate .* metrics stages$", "^is gone$", PARTS),
    Allowed("part", "<generate .* metrics (num_parts|vocab_size|max_positions)$", "^is new$", PARTS),
    Allowed("part", "<generate .* report has_chat_template$", "^'None' became 'True'$", PARTS),
    Allowed("part", r"<generate .* result rows \[\d\]$", r"^.*'part': \d.* is gone$", PARTS),
    Allowed("^parts/", r"<generate .* result (rows \[\d\]( [a-z_ ]*)?|text)$", "", COMPLETIONS),
    Allowed("^parts/", "model=parts.*, stdout ", "is (gone|new)$", COMPLETIONS),
    Allowed("part", "<generate .* result tables the parts of the model$", "^is new$", PARTS),
    Allowed("part", "model=parts.*, stdout ", "^'(the parts of the model)?' is new$", PARTS),
    Allowed("", rf" params (generation\.({SAMPLING})|task\.({DATA_SETS}))$", "^is new$", ADDED),
    Allowed("sweep", r" params task\.(prompts|split|format)$", "^is new$", ADDED),
    Allowed("cli/help", "--cfg job`, stdout", rf"^'({SAMPLING}|{DATA_SETS}): \w+' is new$", ADDED),
    Allowed("cli/help", "`runner --help`, stdout", ".", "the help explains each key"),
    Allowed(
        "cli/help", "`runner-compare --help`, stdout", ".", "its help is in plain English, with options of verdicts"
    ),
    Allowed("cli/help", "--cfg job`, stdout", r"^'# model=embedded quantization=none .*' is new$", CHOICES),
    Allowed(
        "cli/help",
        "--cfg job`, stdout",
        r"^'max_new_tokens: 256' is (gone|new)$",
        "it stands below the keys of sampling",
    ),
    Allowed(
        "", ", stderr ", r"^'(load|loaded|lora|quantized|rope|runs on)  .*' is gone$|^'loaded model:' is gone$", STDERR
    ),
    Allowed("", ", stderr ", r"^'guessed tokens (do not )?pay at \d+ rows: .*' is gone$", STDERR),
    Allowed(
        "", r"/measured\.json stats kept_tokens$", "^is new$", "tokens that are kept for prompts that come again count"
    ),
    Allowed("sweep", r" result metrics best_ttft_s$", "^is new$", "the shortest time to a first token is a metric"),
    Allowed(
        "grid, resumed", "--save comparison`, stderr", "samples.html", "a page shows every question with two answers"
    ),
    Allowed("inference_sweep", ", stdout ", r"^'(best|time|to|first|token|s|#)' is new$", COLUMNS),
    Allowed(
        "inference_sweep", ", stderr ", r"^'(.*: )(peak.*)' became '\1fastest cell # tok/s [\w, #]+ · \2'$", COLUMNS
    ),
    Allowed("split", ", stdout ", rf"^'(.+  (?:status|finished))  (.+)' became '\1{MEASURED_OF_PARTS}\2'$", COLUMNS),
    Allowed("optuna", ", stdout ", "is new$", SEARCH),
    Allowed("optuna", ", stderr ", "^'.*A new study created in memory with name: no-name-.*' is gone$", SEARCH),
    Allowed("agents", ", stdout ", r"^'job  (task.mode.*)' became 'prompt'$", COLUMNS),
    Allowed("agents", ", stdout ", r"^'tokens a  new tokens  peak RSS' is new$", COLUMNS),
    Allowed("agents", ", stdout ", r"^'job  task.mode .* calls  question  a question  decode .*' is new$", COLUMNS),
    Allowed("agents", ", stdout ", r"^'(.*  finished  .* 4)  (#.*)' became '\1  \d+  \d+  \d+  \2'$", COLUMNS),
    Allowed(
        "agents", r"<agents .* metrics temporal_edges_(before|after)$", "^is gone$", "one round has no temporal edges"
    ),
    Allowed(
        "agents",
        r"<agents .* metrics (model|activation)_mib$",
        "",
        "how many calls are under way at once hangs on the programs",
    ),
    Allowed("agents", r"<agents .* facts sandbox$", "became .* files, also whether they exist: refused", SANDBOX),
    Allowed("agents", r"<agents .* task_version$", "^'1' became '2'$", SANDBOX),
    Allowed(
        "errors/config",
        "`run task.limt=3`, stderr",
        r"Did you mean task.limit\? Choices: .* became .*Did you mean task.limit\? Choices: ",
        ADDED,
    ),
    Allowed(
        "a damaged part",
        "task=verify .* stderr ",
        r"^'<here>/parts/part_0.* (is gone|became 'error: 1 problem found')$",
        STDERR,
    ),
    Allowed("a damaged part", "task=verify .* stderr ", "^'error: 1 problem found:' is gone$", STDERR),
    Allowed(
        "a damaged part", "<generate 1>/result.json$", "^is gone$", "damaged parts are refused before the job begins"
    ),
    Allowed("errors/tasks", "model=parts .* stderr ", r"^'(error: )task.parts=(.*)' became '\1model.name=\2'$", PARTS),
    Allowed("", rf" params task\.({QUESTIONS})$", "^is new$", KEYS_OF_QUESTIONS),
    Allowed("", r" params task\.check_invariance$", "^'0' became 'auto'$", ASKED_AGAIN),
    Allowed(
        "cli/help",
        "--cfg job`, stdout",
        rf"^'({QUESTIONS}): (null|0)' is new$|^'check_invariance: 0'",
        KEYS_OF_QUESTIONS,
    ),
    Allowed("cli/help", "--cfg job`, stdout", "^'check_invariance: auto' is new$", ASKED_AGAIN),
    Allowed(
        "hard5 in 4 bits", r"again\.jsonl$|metrics (asked_again|(texts|answers)_changed(_share)?)$", "", ASKED_AGAIN
    ),
    Allowed("hard5 in 4 bits", " stats (prefill|decode)_tokens$| metrics model_mib$", " became ", ASKED_AGAIN),
    Allowed("hard5 in 4 bits", ", stdout ", "^'(asked again|model_mib) ", ASKED_AGAIN),
    Allowed("early stop, trust", ", stdout ", "^'asked again .* became 'asked again  3 questions: ", ASKED_AGAIN),
    Allowed("", r" facts products$| tags fact\.products$| stats rows_are_independent$", "^is new$", PRODUCTS),
    Allowed(
        "",
        r" (plan|verdict|margin|samples_a_question|questions_needed|early_stop_comparisons|clusters)$",
        "^is new$",
        VERDICTS,
    ),
    Allowed("", r" (conclusion|requirements)$", "^is new$", CONCLUSION),
    Allowed(
        "",
        "`runner-compare .*, stdout",
        r"^'(Of 2 comparisons none|The one comparison|Δ to the baseline in points)",
        CONCLUSION,
    ),
    Allowed("", "`runner-compare .*, stdout", r"^'(−#  #  \+\d.*|nf4[\w=. ]*  [├─┼│●┤]+|)' is new$", CONCLUSION),
    Allowed(
        "",
        ", stdout ",
        r"^[\"'](embedded \w+: 20 questions a job could detect|about [\d,]+ questions a job would)",
        PLANNED,
    ),
    Allowed("grid, resumed", " detectable_difference$", " became ", POWER),
    Allowed(
        "grid, resumed",
        ", stdout | sentences ",
        r"to detect 51\.6 points' became |^'• nf4 .* 60\.3 points' is new$",
        POWER,
    ),
    Allowed("grid, resumed", ", stdout ", r"≥51\.6 .* became .*  ≥60\.3 ", POWER),
    Allowed("grid, resumed", r" difference_(low|high)$", r"^'(-?0\.\d{13})\d*' became '\1\d*'$", ORDER_OF_SUMS),
    Allowed("early stop", r" early_stop_(level|confidence_percent)$", "^is new$", LEVEL),
    Allowed(
        "early stop",
        r" early_stop_difference_points_(low|high)$",
        r"^'-?11\.0016\d*' became '-?11\.0015869140625'$",
        LEVEL,
    ),
    Allowed("", "quantization=int8_dynamic lora|jobs/<gsm8k 1[678]>/", "", INT8_DYNAMIC),
    Allowed("errors/", ", stderr ", "became .*int8, int8_dynamic, nf4", INT8_DYNAMIC),
]
REWORDED = [
    Reworded(
        PARTS,
        {
            '"pipeline embedded': '"generate parts',
            '"pipeline"': '"generate"',
            "^model=embedded (.*) task=pipeline$": r"model=parts \1 task=generate",
        },
    ),
    Reworded(
        EARLY_STOP,
        {
            r"^( *)until: null$": r"\1early_stop_vs: null",
            r'"(task\.|fact\.)?until"': r'"\1early_stop_vs"',
            r'"(fact\.)?until_': r'"\1early_stop_',
        },
    ),
    Reworded(POINTS, {r'"task\.batch"': '"task.batch_sizes"', r'"task\.context"': '"task.context_lengths"'}),
    Reworded("answers of another job name it under another key", {'"taken_from"': '"reused_from"'}),
    Reworded(
        "a model that the scheduler cannot serve is decoded by what is called static batching",
        {
            r'"decoding": "batch by batch"': '"decoding": "static batching"',
            "decoding batch by batch": "decoding static batching",
            r"decoding goes batch by batch, which is slower: (.*?) is asked for": (
                r"decoding uses static batching (slower): \1 was requested"
            ),
        },
    ),
    Reworded("a profile for a GPU expects one", {r"(profile=\w+) means a GPU": r"\1 expects a GPU"}),
    Reworded(
        "a search counts its trials over all lots, and its lines name only what it varies",
        {r"^\[·/1\] (generation\.temperature=.*) model=stub .* tracking=none:": r"[·/3] \1:"},
    ),
    Reworded(CHOICES, {r"^(\w+):\n +name: (none|native)$": r"\1: {}", r"^ +name: (greedy|gsm8k|sqlite)\n": ""}),
    Reworded(
        "columns and sentences of runner-compare and plans have the field's words",
        {
            "could see": "min. detectable",
            r"a true difference of ≥ ([\d.]+ points) would have been seen at least 4 times in 5": (
                r"≥ 80 % power to detect \1"
            ),
            "known by": "basis",
        },
    ),
    Reworded("a job that is done names rerun=all", {r"\(rerun=true does it again\)": "(rerun=all runs it again)"}),
    Reworded(
        "messages, notes and help are in plain English",
        {r"\s+".join(map(re.escape, old.split())): new for old, new in SENTENCES.items()},
    ),
]


def reason_for(case: str, where: str, how: str) -> str | None:
    """Return why a difference is meant, or None."""
    for one in ALLOWED:
        if re.search(one.case, case) and re.search(one.where, where) and re.search(one.how, how, re.S):
            return one.reason
    return None
