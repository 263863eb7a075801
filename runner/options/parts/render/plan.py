"""Renders the plan of a split as text, as an SVG picture with one bar per part, and as a vLLM command.

The SVG is written directly, because a plotting library would take more memory than the rest
of this process.
"""

from __future__ import annotations

import shlex
from typing import Any

from runner.options.parts.sharding.strategies import PlannedPart, make_plan_table
from runner_base import MIB
from runner_base.svg import build_svg_document, format_svg_rectangle, format_svg_text

COLOURS = {
    "embedding": "#4e79a7",
    "layers": "#a0cbe8",
    "norm": "#59a14f",
    "head": "#f28e2b",
    "tied head": "#ffbe7d",
    "attention": "#b07aa1",
    "mlp": "#76b7b2",
    "other": "#bab0ac",
}
WHEN = """\
Use vLLM when many requests come at once, or when one machine is not enough: it reads the original checkpoint (not
these parts), batches continuously, pages its KV cache and captures its kernels. Use the parts for a model that fits no
single machine's memory, for stages on CPUs, and to store, ship or verify parts one by one.
"""
LEFT, TOP, BAR, STEP, WIDTH = 110, 64, 26, 40, 640


def format_part_plan_table(parts: list[PlannedPart]) -> list[str]:
    table = [("part", "layers", "also holds", "parameters", "MiB", "share")]
    for row in make_plan_table(parts):
        numbers = f"{row['params']:,}", f"{row['mib']:,.1f}", f"{row['share']:.1%}"
        table.append((str(row["part"]), row["layers"], row["also_holds"], *numbers))
    widths = [max(len(line[column]) for line in table) for column in range(6)]
    sides = (str.rjust, str.ljust, str.ljust, str.rjust, str.rjust, str.rjust)
    return [
        "  ".join(side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True)).rstrip()
        for line in table
    ]


def draw_planned_parts_svg(parts: list[PlannedPart], title: str) -> str:
    """Draw an SVG with one stacked bar per planned part. Bar lengths are proportional to bytes."""
    largest = max(1, *(part.nbytes for part in parts))
    kinds = [kind for kind in COLOURS if any(kind in part.sections for part in parts)]
    height = TOP + STEP * len(parts) + 10
    drawn = [format_svg_text(LEFT, 20, title, bold=True)]
    x = float(LEFT)
    for kind in kinds:
        drawn += [format_svg_rectangle(x, 32, 12, 12, COLOURS[kind], kind), format_svg_text(x + 18, 43, kind)]
        x += 34 + 7.5 * len(kind)
    for number, part in enumerate(parts):
        y, x = TOP + STEP * number, float(LEFT)
        layers = "" if part.layers is None else f" · {part.layers[0]}-{part.layers[1]}"
        drawn.append(format_svg_text(8, y + 18, f"part {part.part_id}{layers}"))
        for kind, nbytes in part.sections.items():
            width = WIDTH * nbytes / largest
            drawn.append(
                format_svg_rectangle(x, y, width, BAR, COLOURS[kind], f"{kind}: {nbytes / MIB:,.1f} MiB")
            )
            x += width
        drawn.append(format_svg_text(x + 8, y + 18, f"{part.nbytes / MIB:,.1f} MiB"))
    return build_svg_document(LEFT + WIDTH + 130, height, drawn)


def format_vllm_command(
    model: str, revision: str | None, parts: list[PlannedPart], settings: dict[str, Any]
) -> str:
    stages = [part.layers[1] - part.layers[0] + 1 for part in parts if part.layers is not None]
    arguments = ["vllm", "serve", model, "--pipeline-parallel-size", str(len(stages))]
    arguments += ["--revision", revision] if revision else []
    arguments += ["--trust-remote-code"] if settings.get("auto_map") else []
    command = f"VLLM_PP_LAYER_PARTITION={','.join(map(str, stages))} {shlex.join(arguments)}"
    return (
        f"{command}\n\n"
        f"One GPU per stage: {len(stages)} GPUs, here or on several machines. VLLM_PP_LAYER_PARTITION gives each stage "
        "the layers of this plan; without it vLLM cuts by number of layers.\n"
        f"On {len(stages)} machines add, on each: --nnodes {len(stages)} --node-rank RANK --master-addr FIRST_MACHINE "
        "(on all but the first also --headless), or start Ray on them and add --distributed-executor-backend ray.\n\n"
        f"{WHEN}"
    )
