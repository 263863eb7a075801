"""Runs a program with tests inside the sandbox process. The result is a token that only this process and
the parent know.

The parent sends this file's code to sandbox_child.py. The program must not be able to pretend that
it has passed:

- The tests run in a namespace of their own, with copies of the builtins. They get only the
  program's functions.
- After each call of a function, the modules that the tests use are restored.
- An audit hook refuses access to frames, where the token is.
- A returned object whose class in the program defines comparisons ends the tests.

After the program has run, nothing here uses a builtin function or a global name, because the
program may have replaced it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` would double the imports
    from types import CodeType
    from typing import Any

_ONLY_AST = 0x400
_PACKAGES = ("numpy",)  # the packages besides the standard library that tests may import
_HIDDEN_MODULES = (
    "ctypes",
    "_ctypes",
    "_testcapi",
    "_testinternalcapi",
    "_xxsubinterpreters",
    "_interpreters",
)
_HIDDEN_ATTRIBUTES = ("tb_frame", "gi_frame", "cr_frame", "ag_frame")
_HIDDEN_EVENTS = (
    "sys._getframe",
    "sys._current_frames",
    "sys._current_exceptions",
    "sys.settrace",
    "sys.setprofile",
    "sys.addaudithook",
    "sys.monitoring.register_callback",
    "gc.get_objects",
    "gc.get_referrers",
    "gc.get_referents",
)
# what a class may not define if its objects are returned to the tests
_COMPARISONS = frozenset(
    f"__{name}__"
    for name in (
        *("eq", "ne", "lt", "le", "gt", "ge", "bool", "len", "contains", "iter", "getitem"),
        *("sub", "rsub", "abs", "round", "float"),
    )
)


def compile_tests(tests: str, syntax_tree: Any) -> CodeType:
    """Compile the tests, and add them to the tree whose imports are loaded before the program runs."""
    tree: Any = compile(tests, "<tests>", "exec", _ONLY_AST, dont_inherit=True)
    syntax_tree.body += tree.body
    return compile(tests, "<tests>", "exec", dont_inherit=True)


def import_packages(module_names: Any) -> None:
    """Import numpy if the program or the tests name it. Its path cannot be read later."""
    import os

    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads are refused
    for name in module_names:
        if name.partition(".")[0] in _PACKAGES:
            try:
                __import__(name)
            except BaseException:  # noqa: BLE001 - the program raises the same error itself
                continue


def run_program_and_tests(
    program: CodeType, tests: CodeType, settings: Any, test_modules: Any, describe_error: Any
) -> tuple[str, str]:
    """Return the token and no reason if all tests pass. Otherwise return the kind of failure and the reason."""
    token, wanted_names, test_lines = settings["token"], settings["names"], settings["tests"].splitlines()
    execute, type_of, is_instance, mro_of = exec, type, isinstance, type.__dict__["__mro__"].__get__
    function_type, containers, mappings = type_of(describe_error), (list, tuple, set, frozenset), (dict,)
    assertion, memory, refused, os_error, value_error = (
        AssertionError,
        MemoryError,
        PermissionError,
        OSError,
        ValueError,
    )
    any_error, new_dict = BaseException, dict
    comparisons, builtin_names = _COMPARISONS, new_dict(vars(sys.modules["builtins"]))
    test_names = {"__name__": "tests", "__builtins__": builtin_names}
    loaded, known_classes, identify = sys.modules, _list_classes(), id
    # by identity: a metaclass may define its own hash and equality
    known_ids = frozenset([identify(known) for known in known_classes])
    kept_modules = {name: loaded[name] for name in test_modules if name in loaded}
    kept_names = [(vars(module), new_dict(vars(module))) for module in kept_modules.values()]

    def restore_modules() -> None:
        loaded.update(kept_modules)
        for names, kept in kept_names:
            names.update(kept)

    def check_value(value: Any, depth: int = 0) -> None:
        kind = type_of(value)
        for base in mro_of(kind):
            if identify(base) not in known_ids:
                attributes = type_of.__getattribute__(base, "__dict__")
                for name in comparisons:
                    if name in attributes:
                        raise value_error("a returned object defines how it is compared")
        if depth < 4:
            if is_instance(value, containers):
                for element in value:
                    check_value(element, depth + 1)
            elif is_instance(value, mappings):
                for pair in value.items():
                    check_value(pair, depth + 1)

    def wrap_function(function: Any) -> Any:
        def call_and_check(*arguments: Any, **named: Any) -> Any:
            try:
                value = function(*arguments, **named)
            finally:
                restore_modules()
            check_value(value)
            return value

        return call_and_check

    module = type_of(sys)("program")
    space = module.__dict__
    for name in ("ctypes", "_ctypes"):
        loaded.pop(name, None)
    loaded["program"] = loaded["__main__"] = module
    sys.addaudithook(_make_hook(value_error))
    try:
        execute(program, space)
        restore_modules()
        for name in wanted_names or [*space]:
            if name in space and (wanted_names or name not in builtin_names):
                value = space[name]
                test_names[name] = wrap_function(value) if type_of(value) is function_type else value
        test_names["__name__"], test_names["__builtins__"] = "tests", builtin_names
        # the program may rely on a module that only the tests import
        for name, imported in kept_modules.items():
            if name not in space:
                space[name] = imported
        execute(tests, test_names)
    except any_error as caught:
        error: Any = caught
        if is_instance(error, memory):
            return "out_of_memory", describe_error(error)
        if is_instance(error, refused) or (is_instance(error, os_error) and error.errno in (1, 13)):
            return "refused", describe_error(error)
        if not is_instance(error, assertion):
            return "error", describe_error(error)
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        line = test_lines[trace.tb_lineno - 1 :][:1] if trace is not None else []
        return "failed", line[0].strip() if line and "assert" in line[0] else describe_error(error)
    return token, ""


def _list_classes() -> Any:
    """Return all classes. Later classes are the program's."""
    found, todo = {object}, [object]
    while todo:
        for cls in type.__subclasses__(todo.pop()):
            if cls not in found:
                found.add(cls)
                todo.append(cls)
    return frozenset(found)


def _make_hook(error_type: Any) -> Any:
    """Return an audit hook that refuses access to frames, other hooks and raw memory.

    The error is a ValueError, which the standard library expects if there is no frame.
    """
    events, attributes, modules = _HIDDEN_EVENTS, _HIDDEN_ATTRIBUTES, _HIDDEN_MODULES

    def audit_hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event in events
            or event[:7] == "ctypes."
            or (event == "object.__getattr__" and arguments[1] in attributes)
            or (event == "import" and arguments[0] in modules)
        ):
            raise error_type("the sandbox hides frames and raw memory from programs with tests")

    return audit_hook
