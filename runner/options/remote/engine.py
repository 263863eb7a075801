"""Engine of model=api. It loads no model on this machine."""

from __future__ import annotations

from runner.options.remote.model import RemoteModel
from runner.options.remote.session import ApiSession
from runner_base import ConfigError


class ApiEngine(RemoteModel):
    def open(self, batch_size: int | None = None) -> ApiSession:
        """Open a session. `batch_size` limits the number of concurrent requests."""
        most = self.model.concurrency
        if batch_size is not None and batch_size > most:
            raise ConfigError(
                f"a batch of {batch_size} requests exceeds this limit. Raise the limit, or lower the batch size",
                key=f"{self.model.key}.concurrency",
                value=most,
                code="conflict",
            )
        return ApiSession(self, batch_size or self.config.generation.batch_size or most)
