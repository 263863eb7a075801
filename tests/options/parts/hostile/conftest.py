"""The fixtures `arena` and `run_job` of hostile files."""

from arena import arena as arena
from arena import run_job as run_job
