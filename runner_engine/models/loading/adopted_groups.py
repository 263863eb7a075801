"""Loading backend that loads a checkpoint with its quantization library, then converts the
library's layers to our own.
"""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading.contract import LoadingBackend, LoadingInfo
from runner_engine.models.loading.made_groups import get_load_time_quantization, replace_library_layers


class Backend(LoadingBackend):
    def load_model(self, arguments: dict[str, Any], rope_config: Any) -> tuple[Any, LoadingInfo]:
        model, report = super().load_model(arguments, rope_config)
        replace_library_layers(get_load_time_quantization(self.resolved), model, str(self.folder))
        return model, report
