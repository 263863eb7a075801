"""Install instructions for quantizer packages."""

from __future__ import annotations

from runner.options.quantize.keys import QuantizeConfig


def format_quantizer_install_instructions(task: QuantizeConfig) -> str:
    """Return the commands that install a recipe's quantizer package."""
    maker, here = task.recipe_properties.maker, f".makers/{task.recipe_properties.maker.name}"
    lines = [f"run `make makers RECIPE={task.recipe.value}` in a clone of the runner's repository"]
    if maker.programs:
        lines.append(
            "or install llama.cpp (https://github.com/ggml-org/llama.cpp/releases) and put "
            "llama-quantize and llama-imatrix on PATH, or give "
            "task.executable=PATH_OF_LLAMA_QUANTIZE"
        )
        return "; ".join(lines)
    if maker.extra:
        lines.append(f"or run `pip install 'runner-llm[{maker.extra}]'` in the runner's environment")
    pip = f"python -m venv {here} && {here}/bin/pip install {maker.distribution}=={maker.version}"
    lines.append(f"or run `{pip}`, and set task.python={here}")
    return "; ".join(lines)
