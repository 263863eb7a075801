"""Processes of the program that start warm: forked from one that has imported the libraries.

Importing torch, transformers and MLflow takes seconds, most of what a small job takes. `WarmPopen` is a `Popen` whose
process is forked from a nursery that has imported them. The fork is a child of whoever asked for it, with its own
arguments, folder, variables, descriptors, session, output and exit code, and what it starts itself (the workers of a
grid) starts warm, too, from a nursery of its own. What cannot be the same that way is started as ever: other programs,
and variables that are read while libraries are imported. Tests of what is imported when start cold.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llama.tokenization_llama",
    "transformers.generation",
    "peft",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
    *("hydra._internal.core_plugins.bash_completion", "hydra._internal.core_plugins.structured_config_source"),
    *("rich.console", "rich.table", "rich.live"),
)
MODULES = (
    "runner.run",
    "runner.report",
    "runner.grid.sweeper",
    "runner.grid.workers",
    "runner.grid.worker",
    "runner.compare.command",
    "runner.store.sync",
    "runner.tasks.gsm8k.task",
    "runner.engines.kinds.stub",
    "runner.engines.kinds.local",
    "runner.engines.local.engine",
    "runner.models.load",
    "runner.models.lora.peft",
    "runner.models.bin_file",
)
# Variables that nobody reads before the program runs; where another one differs, the process starts cold.
LATE = (
    *(
        "HYDRA_",
        "MLFLOW_",
        "_MLFLOW_",
        "PGCONNECT_TIMEOUT",
        "CUDA_VISIBLE_DEVICES",
        "SUBMITIT_",
        "PYTHONPATH",
        "PYTEST_",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
        "LRU_CACHE_CAPACITY",
    ),
    *("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_", "TORCH_NCCL_", "OMP_NUM_THREADS"),
    *("FAULTS", "RUNNER_", "STUDENT_", "ENABLE_HYBRID", "FORCE_STUDENT_STUB", "API_KEY", "COLUMNS", "TERM"),
    *("TOKENIZERS_PARALLELISM", "HF_DATASETS_OFFLINE", "XDG_CACHE_HOME"),
    *("KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"),  # what sklearn and peft set when they are imported
    # what joblib tells its workers: all of it is about threads, which OMP_NUM_THREADS settles
    *("OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM", "NUMBA_NUM", "NUMEXPR_NUM", "ENABLE_IPC"),
)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl: orphans below this process become its children
ROOM = 4000  # bytes for the command line of a fork
COLD = subprocess.Popen  # whatever a test puts in its place


class WarmPopen(subprocess.Popen[Any]):
    """Start a process as Popen does, but from the nursery where nobody can tell the difference.

    `ignored` are signals that the process ignores from the start, as after nohup or a shell's `&`.
    """

    nursery: socket.socket | None = None  # of this process
    known: Mapping[str, str] = {}  # the variables with which the nursery has imported its modules
    lock = threading.Lock()

    def __init__(self, args: Any, *rest: Any, ignored: Sequence[int] = (), **keys: Any) -> None:
        self._ignored, self._own_session = [*ignored], bool(keys.get("start_new_session"))
        if ignored and self._order(args, keys.get("env")) is None:
            keys["preexec_fn"] = lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored]
        super().__init__(args, *rest, **keys)

    def _order(self, args: Any, env: Mapping[str, str] | None) -> dict[str, Any] | None:
        """What the nursery is asked for; None where the process has to start cold."""
        variables = dict(os.environ if env is None else env)
        differ = {key for key in {*variables, *self.known} if variables.get(key) != self.known.get(key)}
        if self.nursery is None or isinstance(args, (str, bytes)) or args[0] != sys.executable:
            return None
        flags = [word for word in args[1:3] if word in ("-P", "-u")]
        rest: list[str] = [*args[1 + len(flags) :], ""]
        kind, *words = ("file", *rest) if rest[0].endswith(".py") else rest
        if kind not in ("-m", "-c", "file") or not all(key.startswith(LATE) for key in differ):
            return None
        if "PYTHONPATH" in differ and _hides_modules(variables.get("PYTHONPATH", "")):
            return None
        return {"kind": kind, "what": words[0], "arguments": words[1:-1], "safe": "-P" in flags, "variables": variables}

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any,
                       env: Any, startupinfo: Any, creationflags: Any, shell: Any, p2cread: int, p2cwrite: int,
                       c2pread: int, c2pwrite: int, errread: int, errwrite: int, *rest: Any) -> None:  # fmt: skip
        order = None if shell or executable or preexec_fn else self._order(args, env)
        if order is None:
            cold = (args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell)
            super()._execute_child(  # type: ignore[misc]
                *cold, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest
            )
            return
        order |= {"folder": os.path.abspath(cwd or "."), "session": self._own_session, "ignored": self._ignored}
        order |= {"command": [*args], "numbers": [0, 1, 2, *pass_fds]}
        given = [own if fd < 0 else fd for own, fd in enumerate((p2cread, c2pwrite, errwrite))]
        with self.lock:
            assert self.nursery is not None
            message = json.dumps(order).encode()
            socket.send_fds(self.nursery, [len(message).to_bytes(8, "big")], [*given, *pass_fds])
            self.nursery.sendall(message)
            self.pid = int.from_bytes(_receive(self.nursery, 8), "big")
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def _hides_modules(places: str) -> bool:
    """Whether new places hold more than sitecustomize.py, which forks run: modules that the nursery has from elsewhere."""
    known = {os.path.abspath(place) for place in sys.path}
    new = [Path(place) for place in places.split(os.pathsep) if place and os.path.abspath(place) not in known]
    return bool({path.name for place in new for path in place.glob("*")} - {"sitecustomize.py", "__pycache__"})


def popen(args: Sequence[str], **keys: Any) -> WarmPopen:
    """Start a process."""
    return warm()(args, **keys)


def warm() -> type[WarmPopen]:
    """Return what starts processes; the first call starts the first nursery, which ends when this process does."""
    if WarmPopen.nursery is None and sys.platform == "linux":
        ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno()), " " * ROOM]
        # said, because C code of libraries puts variables where os.environ does not see them
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "env": dict(os.environ)}
        server = COLD(command, pass_fds=[theirs.fileno()], **streams)
        atexit.register(server.wait)
        atexit.register(ours.close)  # first: the last one registered
        theirs.close()
        _adopt(ours, dict(os.environ))
    return WarmPopen


def complete(
    args: Sequence[str], data: str | bytes | None = None, timeout_s: float = 300, **keys: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a process to its end, with data on its stdin, as subprocess.run does; what it prints is kept."""
    stdin = subprocess.DEVNULL if data is None else subprocess.PIPE
    keys = {"text": not isinstance(data, bytes), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keys
    with popen(args, stdin=stdin, **keys) as process:
        try:
            out, err = process.communicate(data, timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(args, process.returncode, out, err)


def run(module: str, arguments: Sequence[str], timeout_s: float, **keys: Any) -> tuple[int, str, str]:
    """Run `python -m MODULE ARGUMENTS`; return its exit code and what it printed."""
    done = complete([sys.executable, "-m", module, *arguments], timeout_s=timeout_s, **keys)
    return done.returncode, done.stdout, done.stderr


def _adopt(nursery: socket.socket, variables: Mapping[str, str]) -> None:
    """Make this process the parent of what the nursery forks."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    WarmPopen.nursery, WarmPopen.known = nursery, variables


def _receive(stream: socket.socket, count: int) -> bytes:
    """Read so many bytes; fewer at the end of the stream only."""
    found = b""
    while len(found) < count and (more := stream.recv(count - len(found))):
        found += more
    return found


def main() -> None:
    """Import the libraries, and fork what is asked for on the socket that was inherited."""
    del sys.path[0]  # the folder of this file
    given = dict(os.environ)
    sys.modules["warm_process"] = sys.modules["__main__"]
    for name in (*LIBRARIES, *MODULES):
        importlib.import_module(name)
    plain = subprocess.Popen
    for module in [*sys.modules.values()]:  # who has imported the class itself would start processes cold
        if vars(module).get("Popen") is plain:
            module.Popen = WarmPopen  # type: ignore[attr-defined]
    with suppress(ImportError):
        vars(importlib.import_module("joblib.externals.loky.backend.fork_exec"))["fork_exec"] = start_for_joblib
    gc.freeze()  # a collection in a fork would copy all of this memory
    made = {key: value for key, value in os.environ.items() if given.get(key) != value}
    serve(socket.socket(fileno=int(sys.argv[1])), given, made)


def start_for_joblib(command: list[str], descriptors: Sequence[int], env: Mapping[str, str] | None = None) -> int:
    """Start a worker of joblib, which does so past subprocess; return its number."""
    process = WarmPopen(command, pass_fds=sorted({*map(int, descriptors)}), env=os.environ | (env or {}))
    process.returncode = 0  # joblib itself waits for it
    return process.pid


def serve(asked: socket.socket, given: dict[str, str], made: dict[str, str], ignored: Sequence[int] = ()) -> None:
    """Fork one process for each order until nobody is left to give one; whoever asks becomes its parent.

    given and made are the variables before the imports, and those that they have made.
    """
    while True:
        header, descriptors, _, _ = socket.recv_fds(asked, 8, 64)
        if not header:
            return
        order = json.loads(_receive(asked, int.from_bytes(header, "big")))
        order["ignored"] += ignored  # what a process ignores its children do, too
        between = os.fork()  # it ends at once, so that the next one down becomes a child of who asked
        if not between:
            own = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == own:
                time.sleep(0.0005)
            asked.sendall(os.getpid().to_bytes(8, "big"))
            asked.close()
            become(order, descriptors, given, made)
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def become(order: dict[str, Any], descriptors: list[int], given: dict[str, str], made: dict[str, str]) -> NoReturn:
    """Turn this fork into the process that was asked for."""
    for wish in ENDING:
        default = signal.default_int_handler if wish == signal.SIGINT else signal.SIG_DFL
        signal.signal(wish, signal.SIG_IGN if wish in order["ignored"] else default)
    if order["session"]:
        os.setsid()
    own_nursery(given, made, order["ignored"], descriptors)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(made | order["variables"])
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 200) for descriptor in descriptors]
    for descriptor, number in zip(high, order["numbers"], strict=True):
        os.dup2(descriptor, number)
    for descriptor in (*high, *(set(descriptors) - set(order["numbers"]))):
        os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    name_this_process(order["command"])
    if (threads := os.environ.get("OMP_NUM_THREADS", "")) != given.get("OMP_NUM_THREADS", "") and threads.isdigit():
        sys.modules["torch"].set_num_threads(int(threads))  # its library has read the variable already
    found_here = [*sys.path]
    if not order["safe"]:
        own = {"-m": order["folder"], "-c": "", "file": os.path.dirname(os.path.abspath(order["what"]))}
        sys.path.insert(0, own[order["kind"]])
    places = os.environ.get("PYTHONPATH", "")
    for place in reversed([place for place in places.split(os.pathsep) if place and place not in found_here]):
        sys.path.insert(not order["safe"], place)
        if places != given.get("PYTHONPATH", "") and (start := Path(place, "sitecustomize.py")).exists():
            runpy.run_path(str(start))
    code: Any = 0
    try:
        if order["kind"] == "-m":
            sys.argv = [order["what"], *order["arguments"]]
            runpy.run_module(order["what"], run_name="__main__", alter_sys=True)
        elif order["kind"] == "file":
            sys.argv = [order["what"], *order["arguments"]]
            runpy.run_path(order["what"], run_name="__main__")
        else:
            sys.argv = ["-c", *order["arguments"]]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(order["what"], sys.modules["__main__"].__dict__)  # as -c does
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # noqa: BLE001  # as Python itself ends a program
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of a program does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code or 0)  # without taking down every library: that takes two seconds


def own_nursery(
    given: dict[str, str], made: dict[str, str], ignored: Sequence[int], descriptors: Sequence[int]
) -> None:
    """Fork a nursery for what this process will start, before it has done anything; it ends with this process."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        for descriptor in (ours.detach(), *descriptors):  # others see by their end that this process has ended
            os.close(descriptor)
        for wish in ENDING:
            signal.signal(wish, signal.SIG_IGN)  # a terminal's Ctrl-C is for the programs
        silence = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(silence, number)
        with suppress(OSError):
            serve(theirs, given, made, ignored)
        os._exit(0)
    theirs.close()
    high = fcntl.fcntl(ours.detach(), fcntl.F_DUPFD_CLOEXEC, 300)  # above the numbers that are asked for
    _adopt(socket.socket(fileno=high), given | made)


def name_this_process(command: Sequence[str]) -> None:
    """Let /proc show the command line that the process would have."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # arg_start and arg_end
    text = b"".join(word.encode() + b"\0" for word in command)[: end - begin - 1]
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)


if __name__ == "__main__":
    main()
