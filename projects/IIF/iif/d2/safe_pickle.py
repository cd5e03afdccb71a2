"""Weights in pickle files, as Detectron2's model zoo has them, read without running their code."""

from __future__ import annotations

import pickle
from typing import IO, Any

from iif.errors import InputError

# What a dictionary of names and numpy arrays is made of, in old and new versions of numpy.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def load_arrays(file: IO[bytes], path: str) -> Any:
    """Return the nested dictionaries, numbers, texts and numpy arrays of a pickle file.

    Args:
        file: the file, open for reading.
        path: its path, for the message.

    Raises:
        InputError: it holds anything else, which unpickling could run, or is cut off.
    """
    try:
        return _ArraysOnly(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: not weights of Detectron2's model zoo ({error}); a pickle file can run "
            "code, so only names and arrays are read: give a checkpoint (.pth)"
        ) from None
