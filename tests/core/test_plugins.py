"""Entry points of other packages: found without importing them, and each mistake names the
package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plug_in_packages import write_package
from raising import raises

from runner_base import entry_points, plugins
from runner_base.choices import Choices
from runner_base.errors import Code, ConfigError
from runner_compare.metrics import Metric
from runner_engine.quantization.base import QuantizationConfig

GOOD = """
from dataclasses import dataclass
from runner_engine.quantization.base import QuantizationConfig
@dataclass
class Mine(QuantizationConfig):
    name = "mine"
"""
Add = Callable[..., Path]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Return a function that installs a package in a folder of its own, before all others on the
    path."""

    def forget() -> None:
        entry_points.find_plugin_packages.cache_clear()
        plugins._load_plug_ins.cache_clear()
        plugins.find_plug_ins.cache_clear()
        plugins.find_plug_in_conf_folders.cache_clear()
        for module in [it for it in sys.modules if it.startswith("of_test_")]:
            del sys.modules[module]

    def package(name: str, entry_points: str, version: str = "2.0", **modules: str) -> Path:
        folder = write_package(tmp_path / f"{name}-{version}", name, entry_points, version, **modules)
        monkeypatch.syspath_prepend(folder)
        forget()
        return folder

    yield package
    monkeypatch.undo()
    forget()


def choices(**own: type[QuantizationConfig]) -> Choices[QuantizationConfig]:
    return Choices(
        "quantization",
        QuantizationConfig,
        {name: f"{kind.__module__}:{kind.__name__}" for name, kind in own.items()},
    )


def test_a_name_is_known_before_its_module_is_imported(add: Add) -> None:
    add("birds", "[runner.quantizations]\nmine = of_test_birds:Mine\n", of_test_birds=GOOD)
    known = choices(none=QuantizationConfig)
    assert known.list_names() == ["mine", "none"]
    assert "mine" in known
    assert "of_test_birds" not in sys.modules
    assert list(known) == ["none"]  # iterating imports nothing
    assert known["mine"].name == "mine"
    assert "of_test_birds" in sys.modules
    assert known.find_plug_in_of_class(known["mine"]) == plugins.find_plug_ins("quantization")["mine"]
    assert known.find_plug_in_of_class(QuantizationConfig) is None
    assert plugins.find_plug_ins("quantization")["mine"].package == "birds 2.0"
    with pytest.raises(KeyError):
        known["other"]
    assert known.get("other") is None


def test_a_class_is_known_as_a_plug_ins_before_it_was_asked_for(add: Add) -> None:
    """A worker gets the config from another process, which imports the class by its module."""
    add("birds", "[runner.quantizations]\nmine = of_test_birds:Mine\n", of_test_birds=GOOD)
    import of_test_birds  # type: ignore[import-not-found]

    assert str(choices().find_plug_in_of_class(of_test_birds.Mine)) == "quantization mine of birds 2.0"


@pytest.mark.parametrize(
    ("entry", "module", "code"),
    [
        ("mine = of_test_b:Mine", "import not_there", "failed"),
        ("mine = of_test_b:Mine", "1 / 0", "failed"),
        ("mine = of_test_b:Other", GOOD, "failed"),
        ("mine = of_test_b:Mine", "Mine = 3", "bad_value"),
        ("mine = of_test_b:Mine", "class Mine: pass", "bad_value"),
        ("yours = of_test_b:Mine", GOOD, "mismatch"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_choice_names_its_package(
    add: Add, capsys: pytest.CaptureFixture[str], entry: str, module: str, code: Code
) -> None:
    add("bad-birds", f"[runner.quantizations]\n{entry}\n", of_test_b=module)
    name = entry.split()[0]
    known = choices()
    with raises(ConfigError, code, f"quantization {name} of bad-birds 2.0"):
        known[name]
    assert known.get(name) is None  # a reader of records goes on without it, and says so once
    assert known.get(name) is None
    assert capsys.readouterr().err.count(f"quantization {name} of bad-birds 2.0: ") == 1
    assert list(known.iter_plug_in_choices()) == []


def test_two_packages_with_one_name(add: Add) -> None:
    text = "[runner.quantizations]\nmine = of_test_birds:Mine\n"
    add("birds", text, of_test_birds=GOOD)
    add("fishes", text)
    with raises(ConfigError, "ambiguous", "quantization mine of fishes 2.0"):
        choices()["mine"]


def test_the_runners_own_choice_hides_a_plug_ins(add: Add) -> None:
    add("birds", "[runner.quantizations]\nnone = of_test_birds:Mine\n", of_test_birds=GOOD)
    known = choices(none=QuantizationConfig)
    assert known["none"] is QuantizationConfig
    assert known.find_plug_in("none") is None
    assert "of_test_birds" not in sys.modules


def test_an_older_copy_further_back_on_the_path_is_not_a_rival(add: Add) -> None:
    text = "[runner.quantizations]\nmine = of_test_birds:Mine\n"
    add("birds", text, "1.0", of_test_birds="1 / 0")
    add("birds", text, "2.0", of_test_birds=GOOD)
    assert choices()["mine"].name == "mine"
    assert list(plugins.group_plug_ins_by_package()) == ["birds 2.0"]


def test_objects(add: Add) -> None:
    module = (
        "from runner_compare.metrics import Metric\nM = Metric('m', 'm')\nN = Metric('other', 'n')\nO = 3"
    )
    points = "".join(f"{name} = of_test_m:{name.upper()}\n" for name in "mno")
    add("numbers", f"[runner.metrics]\n{points}[other.group]\nx = y\n", of_test_m=module)
    assert plugins.load_plug_in_object("metric", "m", Metric).label == "m"
    with raises(ConfigError, "mismatch", "metric n of numbers 2.0"):
        plugins.load_plug_in_object("metric", "n", Metric)
    with raises(ConfigError, "bad_value", "metric o of numbers 2.0"):
        plugins.load_plug_in_object("metric", "o", Metric)
    with raises(ConfigError, "unknown_choice", "metrics"):
        plugins.check_plug_in_exists("metrics", "metric", "p")
    with raises(ConfigError, "needs_package", "task.scorer"):
        plugins.check_plug_in_exists("task.scorer", "scorer", "p")
    assert plugins.find_plug_in_conf_folders() == {}
