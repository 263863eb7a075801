"""The curves of recorded work are the rows of the table that recorded_jobs.py prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
TABLES = """
python bench/recorded_jobs.py --counts 10 2000
| recorded jobs | command | s | peak RSS MiB |
| --- | ---: | ---: | ---: |
| 10 | a job that is done | 0.58 (0.58..0.58) | 49 |
| 2,000 | a job that is done | 1.50 (0.58..1.58) | 1,049 |
| 2,000 | disk, KiB a job | 10.5 in its folder |  |
and another store
python bench/recorded_jobs.py --uri 'postgresql://runner@/runs'
| recorded jobs | command | s | peak RSS MiB |
| --- | ---: | ---: | ---: |
| 10 | runner-sync, 100 to log | 10.36 | 238 |
"""


def test_what_is_drawn_are_the_rows(tmp_path: Path) -> None:
    text, picture = tmp_path / "text.md", tmp_path / "curves.png"
    text.write_text(TABLES)
    script = BENCH / "recorded_jobs_curves.py"
    show = f"import sys; sys.path[:0] = [{str(BENCH)!r}]; import recorded_jobs_curves as it; print(it.read({TABLES!r}))"
    shown = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == (
        "{'sqlite': {'a job that is done': [(10, 0.58), (2000, 1.5)]}, "
        "'PostgreSQL': {'runner-sync, 100 to log': [(10, 10.36)]}}"
    )
    subprocess.run([sys.executable, script, text, picture], check=True, timeout=120)
    assert picture.read_bytes().startswith(b"\x89PNG")
    text.write_text("no table")
    nothing = subprocess.run([sys.executable, script, text, picture], capture_output=True, text=True, check=False)
    assert nothing.returncode == 1
    assert "there is no table of recorded_jobs.py in it" in nothing.stderr
