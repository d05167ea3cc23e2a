"""Replace functions of spin_theory by wrong ones, one at a time, and see which claim notices.

``python -m tests.faults`` plants every fault and prints the claim that rejects it; it exits with 1
if one survives. Names of functions as arguments, such as ``divergences:kl``, plant these alone.

Every public function that returns a number gets the faults of `usual` by itself. `FAULTS` of
`tests/fault_table.py` adds the mistakes that a person would make in this one.
"""

import dataclasses
import inspect
import pkgutil
import sys
import time
import types
import typing
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import torch
from torch import Tensor

import spin_theory
from spin_theory.claims.instances import random_instance
from spin_theory.claims.table import CASES
from spin_theory.minima.closed_forms import closed_form_update
from spin_theory.policies import TabularPolicy
from tests.fault_table import FAULTS

SEEDS = (1, 2, 5)
NOT_NUMBERS = {
    "__main__": "the command line; its output has tests of its own",
    "flags": "the command line",
    "plots": "figures, with tests of their own in tests/theory/plots",
    "printed": "what the command line prints",
    "claims.brackets": "part of a check, which tests plant faults in",
    "claims.claim": "what a claim is",
    "claims.evidence": "what a check returns; the claims themselves rest on it",
    "claims.instances": "draws the instances",
    "claims.nearby": "part of checks; tests/theory/claims/test_nearby.py plants faults in it",
    "claims.papers": "text",
    "claims.rows": "text",
    "claims.table": "the list of the claims",
    "claims.verification": "runs the claims",
}
"""Modules and wings without faults, with the reason."""
SHARE = 1e-3
"""How wrong a number of the usual faults is, relative to it."""


def public_functions():
    """Every public function, method and property of spin_theory that returns a number, by name."""
    found = {}
    for info in pkgutil.walk_packages(spin_theory.__path__, "spin_theory."):
        path = info.name.removeprefix("spin_theory.")
        if info.ispkg or {path, path.partition(".")[0]} & NOT_NUMBERS.keys():
            continue
        module = import_module(info.name)
        for name, value in vars(module).items():
            if name.startswith(("_", "check_")) or getattr(value, "__module__", "") != info.name:
                continue
            if inspect.isfunction(value):
                found[f"{path}:{name}"] = value
            elif inspect.isclass(value) and not getattr(value, "_is_protocol", False):
                for inner, method in _methods(value):
                    found[f"{path}:{name}.{inner}"] = method
    return {name: function for name, function in found.items() if _numeric(_result(function))}


def _methods(owner):
    for name, value in vars(owner).items():
        function = value
        for holder in ("fget", "func", "__func__"):  # of properties, cached ones, class methods
            function = getattr(function, holder, function)
        if inspect.isfunction(function) and (not name.startswith("_") or name == "__call__"):
            yield name, function


def _result(function):
    space = {**vars(sys.modules[function.__module__]), "Figure": object}
    return typing.get_type_hints(function, space).get("return")


def _numeric(result):
    """Whether what comes back is a number, or holds one."""
    if inspect.isclass(result) and dataclasses.is_dataclass(result):
        return True
    if result in (float, int, bool, complex, Tensor) or typing.get_origin(result) is np.ndarray:
        return True
    return any(map(_numeric, typing.get_args(result)))


def usual(function):
    """List the faults that fit any function: slightly off, zero, nothing, field by field."""
    result = _result(function)
    if inspect.isclass(result) and dataclasses.is_dataclass(result):
        if result is TabularPolicy:
            return {"sharper": _then(_slightly), "uniform": _then(_zero), "None": _then(_none)}
        hints = typing.get_type_hints(result)
        fields = [field.name for field in dataclasses.fields(result) if _numeric(hints[field.name])]
        return {"None": _then(_none)} | {
            f"{name}: slightly off": _then(_field(name, _slightly)) for name in fields
        }
    return {"slightly off": _then(_slightly), "zero": _then(_zero), "None": _then(_none)}


def _then(change):
    """Turn a change of the result into a fault."""
    return lambda right: lambda *tables, **rules: change(right(*tables, **rules))


def _field(name, change):
    return lambda made: dataclasses.replace(made, **{name: change(getattr(made, name))})


def _none(_):
    return None


def _slightly(value):
    match value:
        case None:
            return 0
        case bool():
            return not value
        case int():
            return value + 1
        case float() | complex():
            return value * (1 + SHARE) + SHARE
        case Tensor() if value.dtype == torch.bool:
            return ~value
        case Tensor() if not value.is_floating_point() and not value.is_complex():
            return value.flip(-1)
        case Tensor() if value.dim() and value.shape[-1] > 1:
            # not by one factor, and not by one summand: some of what is compared is free of them
            ramp = torch.linspace(0.5, 1.5, value.shape[-1], dtype=torch.float64)
            return value * (1 + SHARE * ramp) + SHARE * ramp
        case Tensor():
            return value * (1 + SHARE) + SHARE
        case TabularPolicy():
            return TabularPolicy.from_logits(value.log_probs * (1 + SHARE))
        case tuple() | list():
            return type(value)(map(_slightly, value))
        case _ if dataclasses.is_dataclass(value):
            changes = {
                field.name: _slightly(getattr(value, field.name))
                for field in dataclasses.fields(value)
                if isinstance(getattr(value, field.name), float | Tensor | TabularPolicy)
            }
            return dataclasses.replace(value, **changes)
        case _:
            return value * (1 + SHARE)  # an array of numpy


def _zero(value):
    match value:
        case None | bool() | int():
            return 0
        case TabularPolicy():
            return TabularPolicy.from_logits(value.log_probs * 0)
        case tuple() | list():
            return type(value)(map(_zero, value))
        case _ if dataclasses.is_dataclass(value):
            return None
        case _:
            return value * 0


@contextmanager
def planted(function, fault):
    """Make a function do what `fault(the right function)` does, for all that refer to it."""
    code, defaults, keywords = function.__code__, function.__defaults__, function.__kwdefaults__
    right = types.FunctionType(
        code, function.__globals__, function.__name__, defaults, function.__closure__
    )
    right.__kwdefaults__ = keywords
    wrong = fault(right)
    spare = f"_planted_{id(function)}"
    function.__globals__[spare] = wrong
    made = eval(f"lambda *tables, **rules: {spare}(*tables, **rules)")
    try:
        function.__defaults__ = function.__kwdefaults__ = None
        function.__code__ = made.__code__.replace(co_freevars=code.co_freevars)
        yield
    finally:
        function.__code__ = code
        function.__defaults__, function.__kwdefaults__ = defaults, keywords
        del function.__globals__[spare]


def rejected_by(draws, cases=CASES):
    """Name the first claim that does not hold on every draw; None if all do."""
    for name, case in cases.items():
        for draw in draws:
            try:
                if not case(draw, closed_form_update).holds:
                    return name
            except Exception as error:  # `verify` does not come through either
                return f"{name} ({type(error).__name__})"
    return None


def quickest_first(draw):
    """Order the checks by their time, so that most faults are met early."""
    times = {}
    for name, case in CASES.items():
        begin = time.perf_counter()
        case(draw, closed_form_update)
        times[name] = time.perf_counter() - begin
    return {name: CASES[name] for name in sorted(times, key=times.get)}


def all_faults(functions):
    """Yield function name, fault name and fault."""
    for name, function in functions.items():
        mistakes = {title: fault for title, (fault, _) in FAULTS.get(name, {}).items()}
        for title, fault in (mistakes | usual(function)).items():
            yield name, function, title, fault


def main():
    """Plant every fault, or those in the functions that are named; 1 if one survives."""
    torch.set_num_threads(1)
    functions = public_functions()
    if unknown := set(sys.argv[1:]) - set(functions):
        sys.exit(f"there is no public function {', '.join(sorted(unknown))} that returns a number")
    if sys.argv[1:]:
        functions = {name: functions[name] for name in sys.argv[1:]}
    draws = [random_instance(seed) for seed in SEEDS]
    if (failing := rejected_by(draws)) is not None:
        raise AssertionError(f"{failing} fails without any fault")
    cases = quickest_first(draws[0])
    count = survivors = 0
    for name, function, title, fault in all_faults(functions):
        with planted(function, fault):
            claim = rejected_by(draws, cases)
        count += 1
        survivors += claim is None
        print(f"{name:48} {title:32} {claim or 'SURVIVED'}", flush=True)
    print(f"{count} faults, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
