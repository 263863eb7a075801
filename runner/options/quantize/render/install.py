"""Install instructions for quantizer packages."""

from __future__ import annotations

from runner.options.quantize.keys import QuantizeConfig


def describe_install(task: QuantizeConfig) -> str:
    """Return the commands that install a recipe's quantizer package."""
    maker, here = task.recipe_properties.maker, f".makers/{task.recipe_properties.maker.name}"
    lines = [f"`make makers RECIPE={task.recipe.value}` in a checkout of the runner makes {here}"]
    if maker.programs:
        lines.append(
            "llama.cpp (https://github.com/ggml-org/llama.cpp/releases) has llama-quantize and llama-imatrix: put them "
            "on PATH, or name the first by task.executable=PATH"
        )
        return "; ".join(lines)
    if maker.extra:
        lines.append(f"`pip install 'runner-llm[{maker.extra}]'` adds it to the runner's own")
    pip = f"python -m venv {here} && {here}/bin/pip install {maker.distribution}=={maker.version}"
    lines.append(f"elsewhere `{pip}`; task.python=ENVIRONMENT names any other")
    return "; ".join(lines)
