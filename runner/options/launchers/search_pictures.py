"""Plots of a hyperparameter search: score history, tested values of each key, and importance of each key."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.study import Study

FEWEST = 2  # finished trials for a picture


def plot_study_to_files(study: Study, folder: Path) -> list[str]:
    """Plot a study into a folder and return the file names. A study with fewer than two complete trials
    has no plots.
    """
    from optuna.trial import TrialState

    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < FEWEST:
        return []
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as optunas

    pictures: dict[str, Any] = {"history": optunas.plot_optimization_history, "slice": optunas.plot_slice}
    if len(study.best_params) > 1:
        pictures["importances"] = optunas.plot_param_importances
    drawn = []
    for name, plot in pictures.items():
        with mpl.rc_context(), warnings.catch_warnings():  # Optuna sets a style for the whole process
            warnings.simplefilter("ignore")  # Optuna calls these functions experimental
            try:
                plot(study)
            except RuntimeError:  # all scores are the same, so that no key matters
                continue
            pyplot.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            pyplot.close("all")
        drawn.append(f"{name}.png")
    return drawn
