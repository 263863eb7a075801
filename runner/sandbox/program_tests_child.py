"""Runs a program with tests inside the sandbox process. The result is a token that only this process and
the parent know.

The parent sends this file's code to sandbox_child.py. The program must not be able to pretend that
it has passed:

- The tests run in a namespace of their own, with copies of the builtins. They get only the
  program's names.
- After each call of a function, all modules and builtins are restored.
- An audit hook refuses access to frames, where the token is, and to the code of other functions.
- Only objects whose comparison the program cannot define may be returned.
- Objects that run code of the program when they are deleted live until the tests have ended.

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
_LATE_PARTS = ("random", "fft", "polynomial", "ma")  # that numpy imports at their first use
_HIDDEN_MODULES = (
    "ctypes",
    "_ctypes",
    "_testcapi",
    "_testinternalcapi",
    "_xxsubinterpreters",
    "_interpreters",
)
_HIDDEN_ATTRIBUTES = ("tb_frame", "gi_frame", "cr_frame", "ag_frame")
_FUNCTION_PARTS = ("__code__", "__defaults__", "__kwdefaults__")
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
    "code.__new__",
)
_IMPORT_EVENTS = ("marshal.load", "marshal.loads")  # make code objects, too, and only imports need them
_EQUALITIES = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
# what a class of the program may define if its objects are returned to the tests
_HARMLESS_METHODS = frozenset(
    f"__{name}__"
    for name in (
        *("module", "doc", "dict", "weakref", "slots", "annotations", "qualname", "match_args"),
        *("init", "new", "init_subclass", "repr", "str", "getnewargs", "orig_bases", "parameters"),
        *("firstlineno", "static_attributes", "abstractmethods", "class_getitem"),
    )
)
# Classes that compare by their content. Deleting a plain object runs no code of the program.
_SCALARS = (int, float, complex, bool, str, bytes, type(None), range)
_PLAIN_CLASSES = (*_SCALARS, list, tuple, dict)
_COMPARABLE_CLASSES: tuple[type, ...] = (object, set, frozenset, bytearray, type, type({}.keys()))
_COMPARABLE_NAMES = {
    "collections": ("deque", "OrderedDict", "defaultdict", "Counter"),
    "fractions": ("Fraction",),
    "numbers": ("Number", "Complex", "Real", "Rational"),
    "decimal": ("Decimal",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "array": ("array",),
}
_IS_IMMUTABLE = 1 << 8  # of a class: Py_TPFLAGS_IMMUTABLETYPE


def compile_tests(tests: str, syntax_tree: Any) -> CodeType:
    """Compile the tests, and add them to the tree whose imports are loaded before the program runs."""
    tree: Any = compile(tests, "<tests>", "exec", _ONLY_AST, dont_inherit=True)
    syntax_tree.body += tree.body
    return compile(tests, "<tests>", "exec", dont_inherit=True)


def import_packages(module_names: Any, text: str) -> None:
    """Import numpy, with the parts that the text names. Its path cannot be read later."""
    import os

    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads are refused
    parts = [f"numpy.{part}" for part in _LATE_PARTS if f".{part}" in text]
    for name in [*module_names, *parts]:
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
    functions = frozenset(settings["functions"])
    execute, is_instance, is_callable, class_type = exec, isinstance, callable, type
    memory, refused, os_error, assertion, any_error = (
        MemoryError,
        PermissionError,
        OSError,
        AssertionError,
        BaseException,
    )
    loaded, builtin_names = sys.modules, dict(vars(sys.modules["builtins"]))
    test_names = {"__name__": "tests", "__builtins__": builtin_names}
    kept_modules = {name: loaded[name] for name in test_modules if name in loaded}
    restore_modules = _create_restore_modules_function()
    call_function_and_check_values = _make_caller_that_checks_values(
        restore_modules, _make_return_value_check()
    )

    def wrap_function(function: Any) -> Any:
        def call_function(*arguments: Any, **named: Any) -> Any:
            return call_function_and_check_values(function, arguments, named)

        return call_function

    module = type(sys)("program")
    space = module.__dict__
    for name in ("ctypes", "_ctypes"):
        if name in loaded:
            vars(loaded.pop(name)).clear()
    loaded["program"] = loaded["__main__"] = module
    sys.addaudithook(_make_audit_hook(settings["imports_are_done"]))
    try:
        execute(program, space)
        restore_modules()
        for name in wanted_names or [*space]:
            if name in space and (wanted_names or name not in builtin_names):
                value = space[name]
                is_function = is_callable(value) and (name in functions or not is_instance(value, class_type))
                test_names[name] = wrap_function(value) if is_function else value
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


def _create_restore_modules_function() -> Any:
    """Return a function that gives all modules, and the builtins, the names that they have now."""
    import gc

    loaded, kept_modules, count, disable_gc = sys.modules, dict(sys.modules), len, gc.disable
    modules = [module for module in kept_modules.values() if isinstance(module, type(sys))]
    kept_names = [(vars(module), dict(vars(module))) for module in modules]

    def restore_modules() -> None:
        disable_gc()  # it would call functions of the program
        loaded.update(kept_modules)
        for names, kept in kept_names:
            names.update(kept)
            while count(names) != count(kept):  # a new name in a module can hide a builtin
                names.clear()
                names.update(kept)

    return restore_modules


def _make_caller_that_checks_values(restore_modules: Any, check_value: Any) -> Any:
    """Return a function that calls a function of the program, and rejects values that compare as it likes."""
    import gc

    enable_gc, type_of, advance, end, error = gc.enable, type, next, StopIteration, ValueError
    get_mro, get_names = (type.__dict__[f"__{name}__"].__get__ for name in ("mro", "dict"))
    held: list[Any] = []  # deleting these could run code of the program
    keep, any_error = held.append, BaseException

    def is_checkable(value: Any) -> bool:
        try:
            check_value(value)
        except error:
            return False  # the tests have classes
        return True

    def iterate_checked(values: Any) -> Any:
        while True:
            try:
                value = call_function_and_check_values(advance, (values,), {})
            except end:
                return
            yield value

    def call_function_and_check_values(
        function: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        given = (arguments, named)
        should_check = is_checkable(given)
        enable_gc()
        try:
            value = function(*arguments, **named)
        except any_error as raised:
            keep((raised, given))
            raise
        finally:
            restore_modules()
        is_plain = check_value(value)
        if should_check:
            is_plain = check_value(given) and is_plain
        if not is_plain or not should_check:
            keep((value, given))
            for cls in get_mro(type_of(value)):
                if "__next__" in get_names(cls):
                    return iterate_checked(value)
        return value

    return call_function_and_check_values


def _make_return_value_check() -> Any:
    """Return a function that rejects values whose comparison the program can define.

    It returns whether a value is plain: deleting a plain value runs no code of the program.
    """
    error, identify, is_instance, type_of, is_any = ValueError, id, isinstance, type, any
    get_mro, get_names, get_flags = (
        type.__dict__[f"__{name}__"].__get__ for name in ("mro", "dict", "flags")
    )
    harmless, equalities, immutable = _HARMLESS_METHODS, _EQUALITIES, _IS_IMMUTABLE
    comparable: list[Any] = [*_PLAIN_CLASSES, *_COMPARABLE_CLASSES]
    for module, names in _COMPARABLE_NAMES.items():
        comparable += [getattr(sys.modules[module], name) for name in names if module in sys.modules]
    # each with a function that lists what it contains, which a subclass cannot replace
    containers: list[Any] = [(list, list.__iter__), (tuple, tuple.__iter__), (set, set.__iter__)]
    containers += [(frozenset, frozenset.__iter__), (type({}.keys()), type({}.keys()).__iter__)]
    for cls in comparable:
        if cls.__name__ == "deque":
            containers.append((cls, cls.__iter__))
        elif cls.__name__ == "Fraction":
            above, below = cls._numerator.__get__, cls._denominator.__get__
            containers.append((cls, lambda value, above=above, below=below: (above(value), below(value))))
    arrays = []
    if numpy := sys.modules.get("numpy"):
        comparable += [numpy.ndarray, *_list_all_subclasses(numpy.generic)]
        arrays = [(cls, cls.dtype.__get__) for cls in (numpy.ndarray, numpy.generic)]
    scalar_ids, plain_ids, comparable_ids = (
        frozenset(map(id, classes)) for classes in (_SCALARS, _PLAIN_CLASSES, comparable)
    )
    kept_names = {id(cls): dict(vars(cls)) for cls in comparable if not cls.__flags__ & immutable}
    mapping, get_pairs = dict, dict.items

    def reject_class_with_custom_comparison(cls: Any) -> None:
        names, kept = get_names(cls), kept_names.get(identify(cls))
        if kept is not None:
            is_changed = is_any(name not in kept or names[name] is not kept[name] for name in names)
        elif identify(cls) in comparable_ids:
            return
        elif get_flags(cls) & immutable:
            is_changed = is_any(name in names for name in equalities)
        else:
            is_changed = is_any(name[:2] == "__" and name not in harmless for name in names)
        if is_changed:
            raise error("a returned object defines how it is compared")

    def check_value(value: Any) -> bool:
        is_plain, waiting, seen = True, [value], {0}
        while waiting:
            value = waiting.pop()
            kind = type_of(value)
            if identify(kind) in scalar_ids:
                continue
            if identify(kind) not in plain_ids:
                is_plain = False
                for cls in get_mro(kind):
                    reject_class_with_custom_comparison(cls)
                for array, get_dtype in arrays:
                    if is_instance(value, array) and get_dtype(value).hasobject:
                        raise error("a returned array contains objects")
            if identify(value) in seen:
                continue
            for container, list_contents in containers:
                if is_instance(value, container):
                    seen.add(identify(value))
                    waiting += list_contents(value)
            if is_instance(value, mapping):
                seen.add(identify(value))
                for pair in get_pairs(value):
                    waiting += pair
        return is_plain

    return check_value


def _list_all_subclasses(base: Any) -> list[Any]:
    found = [base]
    for cls in found:
        found += [each for each in type.__subclasses__(cls) if each not in found]
    return found


def _make_audit_hook(are_imports_done: bool) -> Any:
    """Return an audit hook that refuses access to frames, other hooks, raw memory and code of other modules.

    The error is a ValueError, which the standard library expects if there is no frame.
    """
    error, attributes, modules, parts, identify = (
        ValueError,
        _HIDDEN_ATTRIBUTES,
        _HIDDEN_MODULES,
        _FUNCTION_PARTS,
        id,
    )
    events = _HIDDEN_EVENTS + (_IMPORT_EVENTS if are_imports_done else ())
    module_ids = frozenset(
        id(vars(module)) for module in sys.modules.values() if isinstance(module, type(sys))
    )

    def audit_hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event in events
            or event[:7] == "ctypes."
            or (event == "object.__getattr__" and arguments[1] in attributes)
            or (event == "import" and arguments[0] in modules)
            or (
                event == "object.__setattr__"
                and arguments[1] in parts
                and identify(arguments[0].__globals__) in module_ids
            )
        ):
            raise error(
                "the sandbox hides frames, raw memory and the code of modules from programs with tests"
            )

    return audit_hook
