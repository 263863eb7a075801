"""The embedded model with a chat template that begins the thinking, as those of models that always
think do."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner_engine.embedded import MODEL_DIR

OLD_THOUGHTS = "{% for m in messages %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{% endfor %}"


def thinking_model(folder: Path, *, shows_old_thoughts: bool = False) -> Path:
    """Write the model into a folder; it thinks until a budget ends that. Its template may show what
    was thought."""
    shutil.copytree(MODEL_DIR, folder)
    file = folder / "chat_template.jinja"
    begin = OLD_THOUGHTS if shows_old_thoughts else ""
    file.write_text(
        begin + file.read_text().rstrip("\n") + "{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    return folder
