"""Both kinds of models have a complete description."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from api_standin import Api
from described_kinds import check_description

from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig, HybridConfig, StudentConfig, TeacherConfig

Make = Callable[..., RunnerConfig]


def test_a_model_on_a_server_has_a_complete_description(make_config: Make, tmp_path: Path) -> None:
    with Api() as api:
        check_description(make_config(model=ApiConfig(name="tiny", base_url=api.url)), tmp_path)


def test_student_and_teacher_have_a_complete_description(make_config: Make, tmp_path: Path) -> None:
    with Api() as api:
        teacher, student = (TeacherConfig(name="tiny", base_url=api.url), StudentConfig(name="x", stub=True))
        check_description(make_config(model=HybridConfig(student, teacher)), tmp_path)
