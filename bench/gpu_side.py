"""Process of a step of gpu_all.py, with the arguments STEP DEVICE OUTPUT.json VLLM_PYTHON PARENT_PID."""

from __future__ import annotations

import sys

from runner_base.child_process import request_kill_when_parent_dies

if __name__ == "__main__":
    request_kill_when_parent_dies(int(sys.argv[5]))
    import gpu_steps  # imports torch, which takes seconds

    gpu_steps.main()
