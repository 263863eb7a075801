"""Loading backend that uses transformers, including the quantization libraries that transformers
integrates.
"""

from __future__ import annotations

from typing import Any

from runner_engine.models.loading.contract import LoadingBackend


class Backend(LoadingBackend):
    """Loads a checkpoint with transformers. For quantized checkpoints, config.json names the
    quantization library.
    """

    def prepare_arguments(self) -> dict[str, Any]:
        """Return the `from_pretrained` arguments of the quantization library."""
        return (
            {}
            if self.resolved.files.stored_format is not None
            else self.resolved.quantization_mix.base.build_load_arguments()
        )
