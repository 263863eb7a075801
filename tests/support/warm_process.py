"""Processes of the program that start warm: forked from one that has imported the libraries.

Importing torch, transformers and MLflow takes seconds, most of a small job's time. `WarmPopen` is a
`Popen` whose process is forked from a nursery, a process that has imported them. The fork is a
child of the caller, with its own arguments, folder, variables, descriptors, session, output and
exit code. The processes that it starts (the workers of a grid) start warm, too, from a nursery of
its own. Other programs start cold, and so do processes with other values of variables that
libraries read at import. Tests of imports start cold.
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
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NoReturn

from entry_points import forget_entry_points

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
    *(
        "rich.console",
        "rich.table",
        "rich.live",
        "tabulate",
        "hydra._internal.core_plugins.structured_config_source",
    ),
    *("optuna", "optuna.importance", "optuna.visualization.matplotlib", "matplotlib.backends.backend_agg"),
)
MODULES = (
    "runner.run",
    "runner.report",
    "runner.grid.sweeper",
    "runner.grid.workers",
    "runner.grid.worker",
    "runner_compare.command",
    "runner.tracking.sync",
    "runner.tasks.gsm8k.task",
    "runner.engines.kinds.stub",
    "runner.engines.kinds.local",
    "runner_engine.local.engine",
    "runner_engine.models.base_loading",
    "runner_engine.models.lora.peft",
    "runner_engine.models.bin_file",
)
# Variables that are not read before the program runs; if another variable differs, the process
# starts cold.
LATE = (
    *(
        "HYDRA_",
        "MLFLOW_",
        "_MLFLOW_",
        "PGCONNECT_TIMEOUT",
        "CUDA_VISIBLE_DEVICES",
        "SUBMITIT_",
        "PYTHONPATH",
    ),
    *("SLURM_", "PYTEST_", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"),
    *(
        "RANK",
        "WORLD_SIZE",
        "LOCAL_",
        "GROUP_",
        "ROLE_",
        "MASTER_",
        "TORCHELASTIC_",
        "TORCH_NCCL_",
        "OMP_NUM_THREADS",
    ),
    *("FAULTS", "RUNNER_", "STUDENT_", "ENABLE_HYBRID", "FORCE_STUDENT_STUB", "API_KEY", "COLUMNS", "TERM"),
    *("TOKENIZERS_PARALLELISM", "HF_DATASETS_OFFLINE", "XDG_CACHE_HOME"),
    # libraries set these at import
    *("KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR"),
    # joblib sets these for its workers: numbers of threads, which OMP_NUM_THREADS decides
    *("OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM", "NUMBA_NUM", "NUMEXPR_NUM", "ENABLE_IPC"),
)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl: orphans below this process become its children
ROOM = 4000  # bytes for the command line of a fork
COLD = subprocess.Popen  # the original, even if a test replaces it


class WarmPopen(subprocess.Popen[Any]):
    """Start a process like Popen, but from the nursery if that makes no difference.

    `ignored` are signals that the process ignores from the start, as after nohup or a shell's `&`.
    """

    nursery: socket.socket | None = None  # the socket to this process's nursery
    known: Mapping[str, str] = {}  # the variables with which the nursery has imported its modules
    lock = threading.Lock()

    def __init__(self, args: Any, *rest: Any, ignored: Sequence[int] = (), **keys: Any) -> None:
        self._ignored, self._own_session = [*ignored], bool(keys.get("start_new_session"))
        if ignored and self._order(args, keys.get("env")) is None:
            keys["preexec_fn"] = lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored]
        super().__init__(args, *rest, **keys)

    def _order(self, args: Any, env: Mapping[str, str] | None) -> dict[str, Any] | None:
        """Return the order for the nursery; None if the process must start cold."""
        variables = dict(os.environ if env is None else env)
        if self.nursery is None or isinstance(args, (str, bytes)) or args[0] != sys.executable:
            return None
        flags = [word for word in args[1:3] if word in ("-P", "-u")]
        rest: list[str] = [*args[1 + len(flags) :], ""]
        kind, *words = ("file", *rest) if rest[0].endswith(".py") else rest
        if kind not in ("-m", "-c", "file") or self.early(variables):
            return None
        python_path = variables.get("PYTHONPATH", "")
        if python_path != self.known.get("PYTHONPATH", "") and _hides_modules(python_path):
            return None
        return {
            "kind": kind,
            "what": words[0],
            "arguments": words[1:-1],
            "safe": "-P" in flags,
            "variables": variables,
        }

    @classmethod
    def early(cls, variables: Mapping[str, str]) -> list[str]:
        """Return the variables that make a start cold: they differ from the nursery's, and
        libraries may read them."""
        names = {*variables, *cls.known}
        return [key for key in names if variables.get(key) != cls.known.get(key) and not key.startswith(LATE)]

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any,
                       env: Any, startupinfo: Any, creationflags: Any, shell: Any, p2cread: int, p2cwrite: int,
                       c2pread: int, c2pwrite: int, errread: int, errwrite: int, *rest: Any) -> None:  # fmt: skip
        order = None if shell or executable or preexec_fn else self._order(args, env)
        if order is None:
            cold = (
                args,
                executable,
                preexec_fn,
                close_fds,
                pass_fds,
                cwd,
                env,
                startupinfo,
                creationflags,
                shell,
            )
            super()._execute_child(  # type: ignore[misc]
                *cold, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest
            )
            return
        order |= {
            "folder": os.path.abspath(cwd or "."),
            "session": self._own_session,
            "ignored": self._ignored,
        }
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


def _hides_modules(python_path: str) -> bool:
    """Whether new folders hold modules that the nursery may have imported from elsewhere."""
    known = {os.path.abspath(folder) for folder in sys.path}
    new = [
        Path(name) for name in python_path.split(os.pathsep) if name and os.path.abspath(name) not in known
    ]
    names = {path.stem for folder in new for path in folder.glob("*") if path.suffix in ("", ".py")}
    return any(name != "sitecustomize" and PathFinder.find_spec(name) is not None for name in names)


def popen(args: Sequence[str], **keys: Any) -> WarmPopen:
    """Start a process."""
    return warm()(args, **keys)


def warm() -> type[WarmPopen]:
    """Return the class that starts processes; the first call starts the first nursery, which ends
    with this process."""
    if WarmPopen.nursery is None and sys.platform == "linux":
        ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno()), " " * ROOM]
        # explicit: C code sets variables that os.environ does not show
        variables = dict(WarmPopen.known or os.environ)
        streams: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "env": variables,
        }
        # a test's folder is deleted with it
        server = COLD(command, pass_fds=[theirs.fileno()], cwd="/", **streams)
        atexit.register(server.wait)
        atexit.register(ours.close)  # runs first, because it is registered last
        theirs.close()
        _adopt(ours, variables)
    return WarmPopen


def complete(
    args: Sequence[str], data: str | bytes | None = None, timeout_s: float = 300, **keys: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a process to its end, with data on its stdin, like subprocess.run, and capture its
    output."""
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
    """Run `python -m MODULE ARGUMENTS`; return its exit code and output."""
    done = complete([sys.executable, "-m", module, *arguments], timeout_s=timeout_s, **keys)
    return done.returncode, done.stdout, done.stderr


def _adopt(nursery: socket.socket, variables: Mapping[str, str]) -> None:
    """Make this process the parent of the nursery's forks."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    WarmPopen.nursery, WarmPopen.known = nursery, variables


def _receive(stream: socket.socket, count: int) -> bytes:
    """Read so many bytes; fewer only at the end of the stream."""
    data = b""
    while len(data) < count and (more := stream.recv(count - len(data))):
        data += more
    return data


def main() -> None:
    """Import the libraries, and fork a process for each order on the inherited socket."""
    parsed_conf = importlib.import_module("parsed_conf")
    del sys.path[0]  # the folder of this file
    given = dict(os.environ)
    sys.modules["warm_process"] = sys.modules["__main__"]
    for name in (*LIBRARIES, *MODULES):
        importlib.import_module(name)
    parsed_conf.parse_all()
    plain = subprocess.Popen
    for module in [
        *sys.modules.values()
    ]:  # modules that have imported the class itself would start processes cold
        if vars(module).get("Popen") is plain:
            module.Popen = WarmPopen  # type: ignore[attr-defined]
    with suppress(ImportError):
        vars(importlib.import_module("joblib.externals.loky.backend.fork_exec"))["fork_exec"] = (
            start_for_joblib
        )
    gc.freeze()  # a collection in a fork would copy all of this memory
    sys.modules[
        "runner_engine.devices.heap"
    ].GcFreezeState.elsewhere = True  # so that no fork counts what is frozen
    made = {key: value for key, value in os.environ.items() if given.get(key) != value}
    serve(socket.socket(fileno=int(sys.argv[1])), given, made)


def start_for_joblib(
    command: list[str], descriptors: Sequence[int], env: Mapping[str, str] | None = None
) -> int:
    """Start a worker of joblib, which does not use subprocess; return its process id."""
    process = WarmPopen(command, pass_fds=sorted({*map(int, descriptors)}), env=os.environ | (env or {}))
    process.returncode = 0  # joblib itself waits for it
    return process.pid


def serve(
    orders: socket.socket, given: dict[str, str], made: dict[str, str], ignored: Sequence[int] = ()
) -> None:
    """Fork one process for each order until the socket closes; the sender becomes its parent.

    `given` are the variables before the imports, and `made` those that the imports have set.
    """
    while True:
        header, descriptors, _, _ = socket.recv_fds(orders, 8, 64)
        if not header:
            return
        order = json.loads(_receive(orders, int.from_bytes(header, "big")))
        order["ignored"] += ignored  # children also ignore the signals that a process ignores
        between = os.fork()  # it ends at once, so that its child becomes a child of the sender
        if not between:
            own = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == own:
                time.sleep(0.0005)
            orders.sendall(os.getpid().to_bytes(8, "big"))
            orders.close()
            become(order, descriptors, given, made)
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def become(
    order: dict[str, Any], descriptors: list[int], given: dict[str, str], made: dict[str, str]
) -> NoReturn:
    """Turn this fork into the ordered process."""
    for ending in ENDING:
        default = signal.default_int_handler if ending == signal.SIGINT else signal.SIG_DFL
        signal.signal(ending, signal.SIG_IGN if ending in order["ignored"] else default)
    if order["session"]:
        os.setsid()
    # copies above this overwrite no ordered number
    room = max(200, *(number + 1 for number in order["numbers"]))
    own_nursery(given, made, order["ignored"], descriptors, room + 100)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(made | order["variables"])
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, room) for descriptor in descriptors]
    for descriptor, number in zip(copies, order["numbers"], strict=True):
        os.dup2(descriptor, number)
    for descriptor in (*copies, *(set(descriptors) - set(order["numbers"]))):
        os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    name_this_process(order["command"])
    if (threads := os.environ.get("OMP_NUM_THREADS", "")) != given.get(
        "OMP_NUM_THREADS", ""
    ) and threads.isdigit():
        # the library has already read the variable
        sys.modules["torch"].set_num_threads(int(threads))
    search_path = [*sys.path]
    if not order["safe"]:
        own = {"-m": order["folder"], "-c": "", "file": os.path.dirname(os.path.abspath(order["what"]))}
        sys.path.insert(0, own[order["kind"]])
    python_path = os.environ.get("PYTHONPATH", "")
    for folder in reversed([at for at in python_path.split(os.pathsep) if at and at not in search_path]):
        sys.path.insert(not order["safe"], folder)
        if (
            python_path != given.get("PYTHONPATH", "")
            and (start := Path(folder, "sitecustomize.py")).exists()
        ):
            runpy.run_path(str(start))
    forget_entry_points()  # packages on its path may bring others than the nursery has read
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
            exec(order["what"], sys.modules["__main__"].__dict__)  # like -c
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # noqa: BLE001  # like the end of a program
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, like the end of a program
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code or 0)  # without shutting down every library, which takes two seconds


def own_nursery(
    given: dict[str, str], made: dict[str, str], ignored: Sequence[int], descriptors: Sequence[int], room: int
) -> None:
    """Fork a nursery for this process's own, which ends with it; the socket to it has a number from
    `room` on."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        for descriptor in (
            ours.detach(),
            *descriptors,
        ):  # their closing shows others that this process has ended
            os.close(descriptor)
        for ending in ENDING:
            signal.signal(ending, signal.SIG_IGN)  # a terminal's Ctrl-C is for the programs
        silence = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(silence, number)
        with suppress(OSError):
            serve(theirs, given, made, ignored)
        os._exit(0)
    theirs.close()
    _adopt(socket.socket(fileno=fcntl.fcntl(ours.detach(), fcntl.F_DUPFD_CLOEXEC, room)), given | made)


def name_this_process(command: Sequence[str]) -> None:
    """Let /proc show the command line of the ordered process."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # arg_start and arg_end
    text = b"".join(word.encode() + b"\0" for word in command)[: end - begin - 1]
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)


if __name__ == "__main__":
    main()
