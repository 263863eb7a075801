"""Child process that runs model-written code. sandbox.py starts this file by its path with `python
-I -S`.

It limits itself, lets the kernel refuse the rest, and only then reads the code. First it
imports the standard library modules that the code names; then the kernel refuses every
path. The result goes to a pipe that was its stdout: protections, value of `answer`, reason
for no answer, printed text. It imports little, because it starts thousands of times, and
nothing of the runner.
"""

from __future__ import annotations

import io
import marshal
import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` would double the imports
    from typing import Any

LONGEST_TEXT, MAX_DIGITS = 1000, 100  # of `answer`: characters of a text, characters of a number
NOBODY = 65534
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38  # of prctl
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_SIGKILL = 9
# Landlock's calls, equal on all machines
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = (444, 445, 446)
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = (
    1,
    2,
    4,
    8,
    32,
    256,
    1 << 14,
)
_READ = _READ_FILE | _READ_DIR
# flat files only: no folders, no links
_IN_FOLDER = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
# What Python reads when it imports: its own modules, and the libraries of the system that some of
# them load.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero", "/usr/share/zoneinfo")
_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST; importing `ast` would take as long as all of this
# Modules that others import inside of functions which a computation may well call.
_LATE = {
    "time": ["_strptime"],
    "datetime": ["_strptime"],
    "collections": ["heapq", "copy"],
    "functools": ["weakref"],
}


class PrintBuffer(io.StringIO):
    """Output stream that stores a program's printed text. A program that prints more ends with an error."""

    def __init__(self, max_characters: int) -> None:
        super().__init__()
        self.most, self.is_flooded = max_characters, False

    def write(self, text: str) -> int:
        if self.is_flooded or self.tell() + len(text) > self.most:
            self.is_flooded = True
            raise OSError("too much was printed")
        return super().write(text)


def main() -> None:
    """Activate the protections, read the code from stdin, run it, and write the outcome."""
    source = sys.stdin.buffer
    job: dict[str, Any] = marshal.load(source)
    result = os.dup(1)
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    sys.path += job.get("packages", ())  # folders from which a program with tests may import
    if "tests" in job:
        __import__("gc")  # refused later where the kernel refuses nothing
    held, libc = activate_sandbox_protections(job)
    texts: tuple[str, ...] = marshal.load(source)
    os.dup2(1, 0)
    sys.stdin = io.StringIO()
    if "tests" in job:
        sys.stdin.close()  # reading raises an error, as in other test runners
    write, leave, join = os.write, os._exit, b"\0".join  # the code may replace these functions
    printed = PrintBuffer(job["printed"])
    sys.stdout = printed
    tree, code, why = compile_first_valid_program(texts)
    answer = ""
    tested: dict[str, Any] = {}
    if code is not None and "tests" in job:
        exec(job["test_runner"], tested)
        test_modules = [*find_imports(compile(job["tests"], "<tests>", "exec", _ONLY_AST))]
        tests = tested["compile_tests"](job["tests"], tree)
        if job["packages"]:
            tested["import_packages"]([*find_imports(tree)], f"{texts[0]}\n{job['tests']}")
    if code is not None:
        if "seccomp" in held and preload_modules_and_block_filesystem(tree, libc, job["filters"][1]):
            held.append("paths")
        if tested:
            job["imports_are_done"] = "paths" in held
            answer, why = tested["run_program_and_tests"](code, tests, job, test_modules, describe_error)
        else:
            answer, why = execute_program(code, job["wanted"])
    if printed.is_flooded:
        answer, why = "", f"printed more than {job['printed']} characters"
    shown = printed.getvalue()[: job["shown"]]
    fields = [" ".join(held), answer, why, shown]
    write(result, join(field.replace("\0", "").encode(errors="replace") for field in fields))
    leave(0)


def compile_first_valid_program(programs: tuple[str, ...]) -> tuple[Any, Any, str]:
    """Compile the first program that is valid Python. Returns an error message if none is valid."""
    why = ""
    for text in programs:
        try:
            tree = compile(text, "<code>", "exec", _ONLY_AST, dont_inherit=True)
            return tree, compile(text, "<code>", "exec", dont_inherit=True), ""
        except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
            why = why or describe_error(error)  # of the first text: the others are guesses
    return None, None, why or "no code"


def preload_modules_and_block_filesystem(syntax_tree: Any, libc: Any, seccomp_filter: bytes) -> bool:
    """Import the standard library modules that the code uses, then block access to all files.

    The kernel enforces the block by a seccomp filter. Returns False if the filter cannot be
    installed.
    """
    before, named = set(sys.modules), {"warnings": list[str]()} | find_imports(syntax_tree)
    import_stdlib_modules(named)
    loaded = {*named, *sys.modules} - (before - {*named})
    import_stdlib_modules({late: [] for name in _LATE if name in loaded for late in _LATE[name]})
    if not install_seccomp_filter(libc, seccomp_filter):
        return False
    sys.meta_path[-1:] = [LateImportRefuser]
    return True


class LateImportRefuser:
    """Import hook that rejects further standard library modules, because file access is already blocked."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        """Raise ModuleNotFoundError for a standard library module, because file access is already
        blocked.
        """
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise ModuleNotFoundError(
                f"the sandbox allows only modules that the code imports explicitly. Write `import {name}`",
                name=name,
            )


def find_imports(syntax_tree: Any) -> dict[str, list[str]]:
    nodes, found = [syntax_tree], dict[str, list[str]]()
    while nodes:
        node = nodes.pop()
        for value in (getattr(node, name, None) for name in node._fields):
            nodes += [
                child
                for child in (value if isinstance(value, list) else [value])
                if hasattr(child, "_fields")
            ]
        kind = type(node).__name__
        if kind == "Import":
            for alias in node.names:
                found.setdefault(alias.name, [])
        elif kind == "ImportFrom" and node.module and not node.level:
            found.setdefault(node.module, []).extend(alias.name for alias in node.names)
        elif kind == "Call" and node.args and isinstance(name := getattr(node.args[0], "value", None), str):
            called = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
            if called in ("__import__", "import_module"):
                found.setdefault(name, [])
    return found


def import_stdlib_modules(modules: dict[str, list[str]]) -> None:
    """Import standard library modules, and ignore errors. The program will raise the same errors itself."""
    for name, members in modules.items():
        if name.partition(".")[0] in sys.stdlib_module_names:
            try:
                __import__(name, fromlist=members)
            except BaseException:  # noqa: BLE001 - some modules are not built everywhere, and some exit
                continue


def execute_program(compiled_code: Any, answer_type: str = "number") -> tuple[str, str]:
    """Execute a program. Returns the value of `answer` as text, or an empty text with the reason for the
    failure.
    """
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compiled_code, module.__dict__)
        if "answer" not in module.__dict__:
            return "", "it assigns nothing to `answer`"
        return format_answer(module.__dict__["answer"], answer_type)
    except BaseException as error:  # noqa: BLE001 - written code may raise anything, SystemExit too
        return "", describe_error(error)


def format_answer(answer: Any, answer_type: str = "number") -> tuple[str, str]:
    """Format a number exactly. Returns an error message instead if the value is not a number.

    A text counts by the number in it, like the replies of agents. Other types do not count,
    even if float() accepts them.
    """
    if isinstance(answer, bool) or answer is None:
        return "", f"`answer` is {answer}, not a {answer_type}"
    if isinstance(answer, str):
        text = str.__str__(answer).strip()
        if len(text) > LONGEST_TEXT:
            return "", f"`answer` is a string of {len(text)} characters, not a {answer_type}"
        if not "".join(text.split()).isprintable():
            why = f"`answer` is a string with unprintable characters, not a {answer_type}"
            return "", why
        return text or " ", ""
    of_modules = (("decimal", "Decimal"), ("fractions", "Fraction"))
    kinds = (int, float, *(getattr(sys.modules.get(name), kind, int) for name, kind in of_modules))
    if not isinstance(answer, kinds):
        return "", f"`answer` is of type {type(answer).__name__[:100]}, not a {answer_type}"
    if answer != answer or answer in (float("inf"), float("-inf")):
        return "", f"`answer` is {float(answer)}, not a {answer_type}"
    if not -(10**MAX_DIGITS) < answer < 10**MAX_DIGITS:
        return "", f"`answer` has more than {MAX_DIGITS} digits"
    number = answer if isinstance(answer, int) else float(answer)
    if number == int(number):
        return str(int(number)), ""
    text = format(number, ".12g")
    if "e" in text:  # as small as 1e-07: the same digits written out
        text = format(number, f".{11 - int(text.split('e')[1])}f").rstrip("0")
    return (text, "") if len(text) <= MAX_DIGITS else ("", f"`answer` has more than {MAX_DIGITS} digits")


def describe_error(error: BaseException) -> str:
    try:
        text = str(error).strip()
    except BaseException:  # noqa: BLE001 - an exception of the code's own making
        text = ""
    first = text.splitlines()[0][:200] if text else ""
    name = type(error).__name__[:100]
    return f"{name}: {first}" if first else name


def activate_sandbox_protections(sandbox_settings: dict[str, Any]) -> tuple[list[str], Any]:
    """Activate every protection that this machine supports. Returns the names of the active
    protections, and the C library.
    """
    held = set_resource_limits(sandbox_settings)
    libc: Any = None
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        held += drop_privileges(libc)
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)  # after the change of user, which resets it
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        if os.getppid() != sandbox_settings["parent"]:
            os._exit(1)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc is not None and "landlock" not in sandbox_settings["without"] and restrict_file_access(libc):
        held.append("landlock")
    if (
        libc is not None
        and sandbox_settings["filters"]
        and install_seccomp_filter(libc, sandbox_settings["filters"][0])
    ):
        held.append("seccomp")
    if "landlock" not in held or "seccomp" not in held:
        for name in ("ctypes", "_ctypes"):
            sys.modules.pop(name, None)
        sys.addaudithook(make_audit_hook("landlock" not in held, "seccomp" not in held))
    return held, libc


def set_resource_limits(sandbox_settings: dict[str, Any]) -> list[str]:
    """Limit CPU seconds, memory, files and processes. Returns the names of the limits that were set."""
    wanted = {
        # a program can catch the first, not the second
        "CPU": (sandbox_settings["cpu_s"], sandbox_settings["cpu_s"] + 1),
        "AS": (sandbox_settings["memory"],) * 2,
        "FSIZE": (sandbox_settings["file"],) * 2,
        "NPROC": (0, 0),
        "NOFILE": (32, 32),
        "CORE": (0, 0),
    }
    held = []
    for name, (soft, hard) in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        try:
            resource.setrlimit(kind, (soft, hard))
            held.append(name.lower())
        except (ValueError, OSError):
            continue  # macOS takes no limit on memory; a limit that fails is not listed
    return held


def drop_privileges(libc: Any) -> list[str]:
    """Switch from root to user nobody, or drop root's capabilities if nobody cannot read Python."""
    if os.geteuid() != 0:
        return []
    try:
        os.chown(".", NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        can_import = any(os.access(f"{folder}/abc.py", os.R_OK, effective_ids=True) for folder in sys.path)
        os.seteuid(0)
        if can_import:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            return ["nobody"]
        os.setresgid(0, 0, 0)
        os.chown(".", 0, 0)
    except OSError:
        pass  # a container may have taken these powers away already
    import ctypes

    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    return ["powerless"] if libc.capset(header, nothing) == 0 else []


def restrict_file_access(libc: Any) -> bool:
    """Restrict file access with Landlock. Only the working directory is writable.

    The working directory and Python's modules are readable.
    """
    import ctypes

    call = libc.syscall
    version = call(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    # files; TCP; signals and abstract sockets
    fields = [rights] + [0b11] * (version >= 4) + [0b11] * (version >= 6)
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    rules = call(_CREATE_RULESET, attributes, ctypes.sizeof(attributes), 0)
    if rules < 0:
        return False
    known = rights if version >= 3 else rights & ~_TRUNCATE
    readable = [*sys.path, f"{sys.base_prefix}/lib", *_LIBRARIES, *_DEVICES]
    allowed = [(".", _IN_FOLDER), *((path, _READ) for path in readable), ("/dev/null", _READ | _WRITE_FILE)]
    for path, access in allowed:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # there is no such path here
        if not os.path.isdir(path):
            access &= ~(_READ_DIR | _REMOVE_FILE | _MAKE_REG)
        rule = (access & known).to_bytes(8, "little") + descriptor.to_bytes(4, "little")
        is_added = call(_ADD_RULE, rules, 1, rule, 0) == 0
        os.close(descriptor)
        if not is_added:
            return False
    return bool(call(_RESTRICT_SELF, rules, 0) == 0)


def install_seccomp_filter(libc: Any, filter_code: bytes) -> bool:
    """Install a seccomp filter in this process. The filter cannot be removed again."""
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))

    program = Program(len(filter_code) // 8, filter_code)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def make_audit_hook(should_refuse_files: bool, should_refuse_calls: bool) -> Any:
    """Return a Python audit hook that blocks unsafe calls. Malicious code can circumvent it."""
    here = os.getcwd() + "/"
    readable = tuple(f"{path}/" for path in sys.path if path)
    absolute, text, write_flags = (
        os.path.abspath,
        os.fsdecode,
        os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    )
    # Landlock allows changing permissions and times of files, so this hook lets only reading pass
    refused = ("os.", "shutil.", "tempfile.", "glob.", "ctypes.")
    on_calls = ("socket.", "subprocess.", "pty.", "signal.", "resource.", "syslog.", "fcntl.", "mmap.")
    modules = ("_ctypes", "ctypes", "_posixsubprocess", "_socket", "resource", "gc")
    own = ("os.remove", "os.unlink", "os.listdir", "os.scandir")

    def audit_hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not should_refuse_files or isinstance(arguments[0], int):
                return
            path, flags = absolute(text(arguments[0])), arguments[2] or 0
            if (path + "/").startswith(here) or (path.startswith(readable) and not flags & write_flags):
                return
        elif event in own:
            path = absolute(text(arguments[0] if arguments[0] is not None else ".")) + "/"
            if (
                not should_refuse_files
                or path.startswith(here)
                or (event != "os.remove" and path.startswith(readable))
            ):
                return
        elif event == "import":
            if arguments[0] not in modules:
                return
        elif not event.startswith(refused) and not (should_refuse_calls and event.startswith(on_calls)):
            return
        raise PermissionError(f"the sandbox blocks {event} {(arguments[0] if arguments else '')}".rstrip())

    return audit_hook


if __name__ == "__main__":
    main()
