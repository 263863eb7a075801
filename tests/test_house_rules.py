"""Each rule of tests/test_house.py is seen to fail: a fault that breaks it is planted in a copy of
the project."""

from __future__ import annotations

import pytest
from copied_tree import CopiedTree, copy_tree

pytestmark = [pytest.mark.thorough, pytest.mark.slow]
MANY_NAMES = "".join(
    f"    from runner_engine.models.base_loading import name_{number}\n" for number in range(200)
)
OF_COMPARISON = "".join(f"    from runner_compare.model.data import name_{number}\n" for number in range(200))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> CopiedTree:
    folder = tmp_path_factory.mktemp("house")
    copy_tree(folder)
    return CopiedTree(folder, tmp_path_factory.mktemp("environment"))


@pytest.mark.parametrize(
    ("file", "fault", "test", "message"),
    [
        (
            "runner_compare/planning.py", "    import runner.run\n", "test_a_package_imports_only_packages_below",
            "runner_compare.planning imports {'runner.run'}, from a package not below runner_compare",
        ),
        (
            "runner_engine/spec.py", "    from runner_compare import compare\n",
            "test_a_package_imports_only_packages_below", "from a package not below runner_engine",
        ),
        (
            "runner_base/errors.py", "    from runner_engine.models import base_loading\n",
            "test_a_package_imports_only_packages_below", "from a package not below runner_base",
        ),
        ("tests/engine/test_rates.py", "    import runner.run\n", "test_tests_of_the_engine_import_nothing_above_it",
         "tests/engine/test_rates.py imports runner"),
        ("tests/support/streams.py", "    from runner import run\n", "test_tests_of_the_engine_import_nothing_above_it",
         "tests/support/streams.py imports runner"),
        (
            "runner/config/root.py", "    from runner.grid import sweeper\n",
            "test_a_folder_imports_only_from_folders_below",
            "runner.config.root imports runner.grid.sweeper, from a folder above",
        ),
        (
            "runner_engine/settings/model.py", "    from runner_engine.models import base_loading\n",
            "test_a_folder_imports_only_from_folders_below", "from a folder above",
        ),
        ("runner/run.py", "    from runner.options.serve import keys\n", "test_nothing_imports_an_option",
         "runner.run imports {'runner.options.serve.keys'}"),
        ("runner/options/serve/keys.py", "    from runner.options.agents import keys\n", "test_nothing_imports_an_option",
         "runner.options.serve.keys imports {'runner.options.agents.keys'}"),
        ("runner/run.py", MANY_NAMES, "test_few_names_cross_a_border", "names of runner_engine, and"),
        ("runner/run.py", OF_COMPARISON, "test_few_names_cross_a_border", "names of runner_compare, and"),
        ("runner/run.py", "    from runner_base.errors import ConfigError\n",
         "test_what_has_a_door_is_not_fetched_by_the_window", "runner_base.errors.ConfigError"),
        ("runner_base/errors.py", "    from runner_base import files\n", "test_no_files_import_each_other_in_a_circle",
         "runner_base.errors"),
        ("runner/tasks/memory/task.py", "    from runner.tasks.sweep import task\n", "test_tasks_never_import_each_other",
         "runner.tasks.memory.task"),
        ("runner/run.py", "    import mlflow\n", "test_only_tracking_touches_mlflow", "runner.run"),
        ("runner/run.py", "    pass\n" * 400, "test_long_files_have_a_reason", "runner/run.py"),
        ("tests/test_which_file.py", "    pytest.mark.parametrize('n', [{5, 13}], ids=str)\n",
         "test_a_set_names_no_test", "test_which_file.py:"),
        ("runner/newly/__init__.py", "    pass\n", "test_the_picture_shows_every_folder", "newly"),
        ("runner/core/terminal.py", '    return "this text has six words or more"\n',
         "test_computing_code_words_ever_less", "assert 535 <= 534"),
        ("runner_base/texts.py", "    return (\n        1\n    )  # the one\n",
         "test_no_comment_hangs_on_a_closing_bracket", "runner_base.texts"),
        ("runner_compare/features/newly/section.py", "    pass\n",
         "test_a_feature_of_the_comparison_is_one_folder_and_one_name_in_the_list", "newly"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("test_") else "",
)  # fmt: skip
def test_a_fault_fails(copy: CopiedTree, file: str, fault: str, test: str, message: str) -> None:
    path = copy.folder / file
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before or ''}\n\ndef planted():\n{fault}")
    try:
        done = copy.run_tests(f"tests/test_house.py::{test}", "--tb=short")
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stdout
    print(*(line for line in done.stdout.splitlines() if line.startswith("E  ")), sep="\n")


def test_a_heavy_import_fails(copy: CopiedTree) -> None:
    path = copy.folder / "runner" / "config" / "root.py"
    before = path.read_text()
    path.write_text(f"{before}\nimport torch\n")
    try:
        done = copy.run_tests("tests/test_house.py::test_quick_commands_import_nothing_heavy[cfg]")
    finally:
        path.write_text(before)
    assert done.returncode == 1
    assert "assert ['torch'" in done.stdout


def test_without_a_fault_all_pass(copy: CopiedTree) -> None:
    done = copy.run_tests("tests/test_house.py", "-k", "not heavy")
    assert done.returncode == 0, done.stdout
