"""Text files in folders."""

from __future__ import annotations

from random import Random
from typing import Any

from runner.options.tool_turns.environments.base import ANY, Environment, Slots, State, ToolError

FOLDERS = ("reports", "letters", "recipes", "drafts", "invoices", "notes")
NAMES = ("alpha", "budget", "garden", "harbor", "lemon", "maple", "orbit", "river", "summer", "travel")
TEXTS = (
    "Call the plumber",
    "Paid in March",
    "Two eggs and milk",
    "See page nine",
    "Meet at noon",
    "Bring a coat",
    "Ask for a refund",
    "Buy new tires",
)
SHAPE = {"files": {ANY: "string"}}


def list_files(state: State, folder: str) -> Any:
    inside = [path for path in state["files"] if path.startswith(f"{folder.strip('/')}/")]
    if not inside:
        folders = sorted({path.rpartition("/")[0] for path in state["files"]})
        raise ToolError(f"there is no folder {folder}. The folders are {', '.join(folders)}")
    return inside


def read_file(state: State, path: str) -> Any:
    return state["files"][_find_file(state, path)]


def write_file(state: State, path: str, text: str) -> None:
    state["files"][path] = text


def move_file(state: State, path: str, new_path: str) -> None:
    if new_path in state["files"]:
        raise ToolError(f"the file {new_path} already exists")
    state["files"][new_path] = state["files"].pop(_find_file(state, path))


def delete_file(state: State, path: str) -> None:
    del state["files"][_find_file(state, path)]


def _find_file(state: State, path: str) -> str:
    if path not in state["files"]:
        raise ToolError(f"there is no file {path}")
    return path


def _generate_random_files(random: Random) -> tuple[State, Slots]:
    folders, names = random.sample(FOLDERS, 3), random.sample(NAMES, 8)
    texts = random.sample(TEXTS, 8)
    # the last folder has a single file
    places = [folders[0], folders[0], folders[0], folders[1], folders[1], folders[2]]
    paths = [f"{folder}/{name}.txt" for folder, name in zip(places, names, strict=False)]
    file, file2 = random.sample(paths[:5], 2)
    slots = {
        "file": file,
        "file2": file2,
        "text_of_file": texts[paths.index(file)],
        "free": f"{random.choice(folders)}/{names[6]}.txt",
        "missing": f"{random.choice(folders)}/{names[7]}.txt",
        "small_folder": folders[2],
        "single_file": paths[5],
        "text": texts[6],
        "text2": texts[7],
    }
    return {"files": dict(zip(paths, texts, strict=False))}, slots


ENVIRONMENT = Environment(
    "files",
    SHAPE,
    {
        "list_files": list_files,
        "read_file": read_file,
        "write_file": write_file,
        "move_file": move_file,
        "delete_file": delete_file,
    },
    _generate_random_files,
)
