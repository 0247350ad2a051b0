"""What constructors allow for their arguments, from the checks that their code calls.

A check is a function `check_…(name, value, limits)`, such as those of `vae_exp.argument_checks`. It is found by
following an argument through the calls of a constructor, and asked by a value that every check refuses.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from math import nan
from typing import Any

OWN = ("vae_exp", "hydra_plugins")

Parameters = dict[str, Any]  # what a call gives: an expression each, or the default


def find_allowed(target: Callable[..., Any], name: str, constants: Mapping[str, Any] | None = None) -> str:
    """What the first check that an argument reaches allows, such as `at least 1`; empty without a check.

    Args:
        target: A class or a function.
        name: Its argument.
        constants: Values of its other arguments, as far as its caller gives them.
    """
    function, is_argument = _code(target)
    if function is None:
        return ""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    namespace = function.__globals__ | _local_imports(tree) | dict(constants or {})
    for called, parameters in _calls(tree, function, namespace):
        for parameter, expression in parameters.items():
            if not is_argument(expression, name):
                continue
            values = _constants(parameters, namespace)
            if _is_check(called):
                limits = {limit: values[limit] for limit in [*inspect.signature(called).parameters][2:]}
                return _words_of_refusal(called, "", nan, **limits)
            if called is not target and (allowed := find_allowed(called, parameter, values)):
                return allowed
    return ""


def find_allowed_by_key(check: Callable[..., None], key: str) -> str:
    """What the check of a whole mapping allows for one of its keys; empty where it allows anything."""
    return _words_of_refusal(check, "", {"_target_": "", key: nan})


def _is_check(function: Callable[..., Any]) -> bool:
    parameters = [*inspect.signature(function).parameters]
    return function.__name__.lstrip("_").startswith("check_") and parameters[:2] == ["name", "value"]


def _words_of_refusal(check: Callable[..., object], *arguments: Any, **limits: Any) -> str:
    """What a check that is given NaN says would be right, such as `at least 1`; empty if it takes that."""
    try:
        check(*arguments, **limits)
    except ValueError as error:
        allowed = str(error).partition(" must be ")[2].removesuffix(".").removesuffix(", or null")
        if allowed.startswith("one of "):
            return re.sub(r"[^ ,]+", r"`\g<0>`", allowed.removeprefix("one of "))
        if allowed.startswith("auto"):
            return re.sub(r"\b(auto|none)\b", r"`\1`", allowed)
        return re.sub(r"^a (whole number|finite number|list)( of)?( |$)", "", allowed)
    return ""


def _code(target: Any) -> tuple[Any, Callable[[Any, str], bool]]:
    """The function that has the code of a class or function, and how an argument reads in it."""
    if inspect.isclass(target) and is_dataclass(target):
        return getattr(target, "__post_init__", None), _is_field
    function = target.__init__ if inspect.isclass(target) else target
    return (function if inspect.isfunction(function) else None), _is_name


def _is_name(expression: Any, name: str) -> bool:
    return isinstance(expression, ast.Name) and expression.id == name


def _is_field(expression: Any, name: str) -> bool:
    return isinstance(expression, ast.Attribute) and expression.attr == name and _is_name(expression.value, "self")


def _local_imports(tree: ast.Module) -> dict[str, Any]:
    """What a function imports itself."""
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            exec(compile(ast.Module([node], []), "<import>", "exec"), names)  # noqa: S102 - code of this package
    return names


def _calls(
    tree: ast.Module, function: Any, namespace: Mapping[str, Any]
) -> Iterator[tuple[Callable[..., Any], Parameters]]:
    """The calls of functions and classes of this package, each with what it gives for their parameters."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = _called(node.func, function, namespace)
        if not _has_own_code(called):
            continue
        positional = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        given = inspect.signature(called).bind_partial(*positional, **keywords)
        given.apply_defaults()
        yield called, given.arguments


def _has_own_code(called: Any) -> bool:
    is_error = inspect.isclass(called) and issubclass(called, BaseException)
    has_code = inspect.isfunction(called) or (inspect.isclass(called) and not is_error)
    return has_code and called.__module__.startswith(OWN)


def _called(name: ast.expr, function: Any, namespace: Mapping[str, Any]) -> Any:
    """The function or class that a call names; the base class for `super().__init__`."""
    if isinstance(name, ast.Name):
        return namespace.get(name.id)
    if ast.unparse(name) != "super().__init__":
        return None
    defining = getattr(sys.modules[function.__module__], function.__qualname__.partition(".")[0])
    return defining.__mro__[1]


def _constants(parameters: Parameters, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters whose values follow from the code alone."""
    constants: dict[str, Any] = {}
    for name, value in parameters.items():
        if not isinstance(value, ast.expr):
            constants[name] = value
        elif not any(isinstance(node, ast.Call) for node in ast.walk(value)):
            try:
                constants[name] = eval(compile(ast.Expression(value), "<limit>", "eval"), dict(namespace))  # noqa: S307
            except (NameError, AttributeError):
                continue
    return constants
