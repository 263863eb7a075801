"""What the other packages stand on. Importing it refuses Windows, and says how torch's threads wait for each other."""

import os
import sys

if os.name == "nt":  # locks, signals and mapped files are those of Unix
    print(
        "error: runner does not run on Windows itself. Install WSL2 (wsl --install) and run it there", file=sys.stderr
    )
    raise SystemExit(2)

# At every matrix product, torch's CPU threads wait for each other in a spin loop. On a busy machine, the thread that
# they wait for may have lost its core to a spinning one: a step then takes 14 times as long as when waiting threads go
# to sleep after some microseconds. The threads' library reads the variable when it is loaded, so it is set here.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
