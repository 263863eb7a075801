"""Loads a checkpoint of codes by its library, and puts layers of our own in place of the
library's."""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading.contract import Report, WayOfLoading
from runner_engine.models.loading.made_groups import adopt, made_by


class Way(WayOfLoading):
    """What config.json says of the quantization tells transformers which library reads it."""

    def read(self, arguments: dict[str, Any], scaled: Any) -> tuple[Any, Report]:
        """Return the model with our layers."""
        model, report = super().read(arguments, scaled)
        adopt(made_by(self.resolved), model, str(self.folder))
        return model, report
