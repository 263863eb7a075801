"""Loading backend for quantized checkpoints that a library reads. Our own layers then replace
the library's.
"""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading.contract import LoadingBackend, Report
from runner_engine.models.loading.made_groups import get_load_time_config, replace_library_layers


class Backend(LoadingBackend):
    """Loads a quantized checkpoint with the library that its config.json names, then replaces the
    library's layers by our own.
    """

    def load_model(self, arguments: dict[str, Any], rope_config: Any) -> tuple[Any, Report]:
        model, report = super().load_model(arguments, rope_config)
        replace_library_layers(get_load_time_config(self.resolved), model, str(self.folder))
        return model, report
