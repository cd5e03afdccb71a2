"""Files in and out, for every room: hashes, whole-or-nothing writes, checked JSON, provenance."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import platform
import secrets
import stat
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec

from iif.errors import InputError

T = TypeVar("T")
# An id of an annotation file: what int64 holds.
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

# Names of temporary files begin with it; the host's name keeps other machines' apart.
_TEMPORARY = f".iif-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"

# Distributions whose versions can change a result.
_RELEVANT_DISTRIBUTIONS = (
    "iif",
    "torch",
    "numpy",
    "numba",
    "pillow",
    "pycocotools",
    "detectron2",
    "opencv-python",
    "torchvision",
)


PACKAGED = "iif://"
_PACKAGE = Path(__file__).parent


def packaged_file(path: str) -> Path:
    """Return where a file of the package lies: ``iif://configs/lvis_iif.yaml``, for example.

    Raises:
        InputError: the package has no such file; the message names those of that folder.
    """
    name = path.removeprefix(PACKAGED)
    file = _PACKAGE / name
    if not file.is_file():
        there = file.parent.glob(f"*{file.suffix}") if file.parent.is_dir() else []
        others = ", ".join(sorted(other.name for other in there)) or "no file"
        raise InputError(f"{path}: the package has no such file; {file.parent.name} has: {others}")
    return file


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it to ``path`` when the block succeeds.

    Folders on the way are created, and a link is followed. What is no file but a device or a pipe
    (/dev/null) is written to directly. When the block raises, the temporary file is removed and
    whatever ``path`` held before is left as it was. A file that is replaced keeps its permissions.
    Temporary files of processes that were killed are removed.

    Args:
        path: the file to write.
        mode: "w" (UTF-8 text, newlines as written) or "wb".
    """
    if mode not in ("w", "wb"):
        raise ValueError(f'mode is {mode!r}; it must be "w" or "wb"')
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    text = {"encoding": "utf-8", "newline": ""} if mode == "w" else {}
    if target.exists() and not target.is_file() and not target.is_dir():
        with open(target, mode, **text) as f:  # type: ignore[call-overload]
            yield f
        return
    _remove_leftovers(target.parent)
    # A short name: that of the target may be as long as the file system allows.
    temporary = target.parent / f"{_TEMPORARY}{os.getpid()}.{secrets.token_hex(6)}"
    # Opened as open() would, so that a new file gets the permissions that the user chose.
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        with os.fdopen(descriptor, mode, **text) as f:  # type: ignore[call-overload]
            if target.is_file():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files that processes of this machine left when they were killed."""
    if os.name != "posix":  # elsewhere a process cannot be asked without harm
        return
    for path in folder.glob(f"{_TEMPORARY}*"):
        process = path.name.removeprefix(_TEMPORARY).partition(".")[0]
        if process.isdecimal() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make a renamed file's name outlast a power cut, where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as JSON, whole or not at all. NaN and infinity are refused (use None)."""
    with atomic_write(path) as f:
        json.dump(value, f, indent=indent, allow_nan=False)
        f.write("\n")


def read_json(path: str | os.PathLike[str], type: type[T], *, what: str) -> T:
    """Decode a JSON file into ``type`` with msgspec; fields that ``type`` lacks are skipped.

    Skipped fields are never built as Python objects, so a large file costs little more memory
    than the fields that are asked for.

    Args:
        path: the file.
        type: a msgspec.Struct or any type that msgspec decodes.
        what: what the file should be, for the error message ("an LVIS-format annotation file").

    Raises:
        InputError: the file is missing, is not JSON (for example cut off), or a field is missing
            or of the wrong type; the message names the file and the place.
    """
    try:
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                raise InputError(f"{path}: the file is empty; expected {what}")
            # Not closed here: a msgspec.Raw field is a view into it and keeps it mapped.
            content = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
            return msgspec.json.decode(memoryview(content), type=type)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {what}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected {what}") from None
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: not {what}: {error}") from None
    except msgspec.DecodeError as error:
        raise InputError(
            f"{path}: not valid JSON ({error}); the file may be cut off: copy or make it again"
        ) from None


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform and every installed package that matters."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _RELEVANT_DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
