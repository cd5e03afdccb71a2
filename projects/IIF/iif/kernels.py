"""Kernels: functions that numba compiles once, and that later processes load without numba.

Importing numba and loading a function from its cache takes longer than evaluating a small file.
Here the machine code is kept in a file, loaded by llvmlite alone and called with numba's own
arguments; numba is imported where there is no such file. Kernels release the interpreter lock.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from iif.files import atomic_write

_LOCK = threading.RLock()
_KEPT: list[Any] = []  # the engines, which own the code
_NEEDS_NUMBA = re.compile(r"^declare .*@(NRT_\w+|numba_\w+)", re.MULTILINE)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function by numba when it is first called, or load what was compiled before.

    It takes arrays and numbers, allocates nothing and returns nothing, unless only other kernels
    call it. Division by zero gives infinity or NaN.
    """
    return Kernel(function)


class Kernel:
    """A compiled function; see `kernel`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Wrap a function, which other kernels may call."""
        functools.update_wrapper(self, function)
        self.function: Any = function
        self._loaded: dict[str, Callable[..., int]] = {}

    def __call__(self, *args: Any) -> None:
        """Run on arrays and numbers."""
        of = ",".join(map(_type_of, args))
        if of not in self._loaded:
            with _LOCK:
                if of not in self._loaded:
                    self._loaded[of] = self._load(of)
        flat: list[Any] = []
        for arg in args:
            if isinstance(arg, np.ndarray):
                flat += [0, 0, arg.size, arg.itemsize, arg.ctypes.data, *arg.shape, *arg.strides]
            else:
                flat.append(arg)
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        if self._loaded[of](ctypes.byref(result), ctypes.byref(error), *flat):
            raise RuntimeError(f"{self.function.__qualname__} failed")

    @functools.cached_property
    def dispatcher(self) -> Any:
        """The function as numba's, for compilation."""
        import numba

        code, named = self.function.__code__, dict(self.function.__globals__)
        for name in set(code.co_names) & set(named):
            if isinstance(named[name], Kernel):
                named[name] = named[name].dispatcher
        function = types.FunctionType(code, named, self.function.__name__)
        return numba.njit(
            error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False
        )(function)

    def _load(self, of: str) -> Callable[..., int]:
        key = repr((list(_content(self)), of, *_platform())).encode()
        name = f"{self.function.__name__}-{hashlib.sha256(key).hexdigest()[:32]}.o"
        folders = _folders()
        for folder in folders:
            try:
                return _callable((folder / name).read_bytes(), of)
            except (OSError, ValueError):  # not there, or damaged
                continue
        code = self._compile(of)
        for folder in folders:
            try:
                with atomic_write(folder / name, "wb") as f:
                    f.write(code)
                break
            except OSError:
                continue
        else:
            _warn_of_no_folder()
        return _callable(code, of)

    def _compile(self, of: str) -> bytes:
        """Return a line with the function's symbol and its code's SHA-256, and the machine code."""
        compiled = self.dispatcher.get_compile_result(_signature(of))
        _, _, (code, _) = compiled.library.serialize_using_object_code()
        symbol = compiled.fndesc.llvm_func_name
        missing = _NEEDS_NUMBA.findall(compiled.library.get_llvm_str())
        packer = compiled.target_context.get_arg_packer(compiled.signature.args)
        if missing or len(packer.argument_types) != len(_flat_types(of)):
            raise NotImplementedError(f"{self.function.__qualname__} needs numba: {missing}")
        return f"{symbol} {hashlib.sha256(code).hexdigest()}\n".encode() + code


def _content(function: Kernel) -> Iterator[Any]:
    """Yield what a function's machine code depends on: its code, and the globals that it names."""
    code, named = function.function.__code__, function.function.__globals__
    yield code.co_code, code.co_consts, code.co_names, code.co_varnames
    for name in code.co_names:
        value = named.get(name)
        if isinstance(value, Kernel):
            yield from _content(value)
        elif not isinstance(value, types.ModuleType):
            yield repr(value)


@functools.cache
def _platform() -> tuple[str, ...]:
    versions = (metadata.version(name) for name in ("numba", "llvmlite"))
    features = llvm.get_host_cpu_features().flatten()
    return *versions, sys.version, llvm.get_host_cpu_name(), features


def _folders() -> list[Path]:
    """Return where code is looked for and, in the first that can be written to, kept."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    package = Path(__file__).parent / "__pycache__"
    places = [Path(given)] if given else [package, Path(cache)]
    return [place / "iif-kernels" for place in places]


@functools.cache
def _warn_of_no_folder() -> None:
    tried = " and ".join(str(folder) for folder in _folders())
    warnings.warn(
        f"{tried} cannot be written, so functions are compiled at every run, which takes seconds: "
        "set NUMBA_CACHE_DIR to a folder that can",
        stacklevel=2,
    )


def _type_of(arg: Any) -> str:
    """Return "i", "f" or, of an array, its dtype, dimensions, order and alignment."""
    if isinstance(arg, np.ndarray):
        order = "C" if arg.flags.c_contiguous else "A"
        return f"{arg.dtype.str}:{arg.ndim}:{order}:{arg.flags.aligned:d}"
    return "f" if isinstance(arg, float) else "i"


def _signature(of: str) -> Any:
    import numba
    from numba.np.numpy_support import from_dtype

    args = []
    for text in of.split(","):
        if ":" in text:
            dtype, ndim, order, aligned = text.split(":")
            args.append(
                numba.types.Array(
                    from_dtype(np.dtype(dtype)), int(ndim), order, aligned=aligned == "1"
                )
            )
        else:
            args.append(numba.types.float64 if text == "f" else numba.types.int64)
    return numba.types.void(*args)


def _flat_types(of: str) -> list[Any]:
    """Return the C types of the arguments: of an array 5 numbers, its shape and its strides."""
    flat: list[Any] = []
    for text in of.split(","):
        ndim = int(text.split(":")[1]) if ":" in text else 0
        flat += (
            [ctypes.c_int64] * (5 + 2 * ndim)
            if ndim
            else [ctypes.c_double if text == "f" else ctypes.c_int64]
        )
    return flat


def _callable(content: bytes, of: str) -> Callable[..., int]:
    head, _, code = content.partition(b"\n")
    symbol, digest = head.decode().split(" ")
    if hashlib.sha256(code).hexdigest() != digest:
        raise ValueError("the code was changed")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _KEPT.append(engine)
    pointers = [ctypes.c_void_p] * 2
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers, *_flat_types(of))
    return prototype(engine.get_function_address(symbol))
