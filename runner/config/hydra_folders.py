"""Rejects Hydra's folder keys, such as hydra.run.dir, on command lines that ignore them."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from runner_base import ConfigError

RUN, SWEEP, SUBFOLDER = "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"
OWN = {"hydra/launcher": "workers", "hydra/sweeper": "grid"}  # which write below output_dir alone


def reject_unused_hydra_folders(overrides: Sequence[str], composed: DictConfig) -> None:
    """Raise ConfigError if a Hydra folder key has no effect, because results are always written below
    output_dir.

    A job may run in hydra.run.dir (hydra.job.chdir), Hydra may write its own files there
    (hydra.output_subdir), and launchers and searches of other packages use the folders of a sweep.
    Folders in a study's file are not checked.
    """
    given = {line.lstrip("+").partition("=")[0]: line for line in overrides}
    if not given.keys() & {RUN, SWEEP, SUBFOLDER}:
        return
    hydra = composed.hydra
    choices = hydra.runtime.choices
    is_own = all(choices.get(group) == choice for group, choice in OWN.items())
    is_written = bool(hydra.job.chdir or hydra.output_subdir)
    for key in (RUN, SWEEP, SUBFOLDER):
        value = given.get(key, "=.").partition("=")[2]
        is_used = is_written or value == "." or (key != RUN and not is_own)
        if not is_used:
            raise ConfigError(
                f"has no effect on the results. Use output_dir={value}", key=given[key], code="no_effect"
            )
