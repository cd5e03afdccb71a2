"""Files in and out, for every room: hashes, whole-or-nothing writes, checked JSON, provenance."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import json
import os
import platform
import secrets
import stat
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec

from iif import layout
from iif.errors import InputError
from iif.outputs import is_special, refuse_input

T = TypeVar("T")
# An id of an annotation file: what int64 holds.
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

# Names of temporary files begin with it; the host's name keeps other machines' apart.
_TEMPORARY = f".iif-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"

# The first bytes of what is sometimes given for a JSON file, and what to do then. The little-endian
# mark of UTF-32 begins with that of UTF-16.
_UTF_8 = "save it as UTF-8"
_UNPACK = "unpack it first"
_NO_TEXT = {
    b"\x1f\x8b": ("compressed with gzip", "unpack it first (gunzip)"),
    b"PK\x03\x04": ("a ZIP archive", _UNPACK),
    b"BZh": ("compressed with bzip2", _UNPACK),
    b"\xfd7zXZ": ("compressed with xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", _UNPACK),
    codecs.BOM_UTF32_LE: ("text in UTF-32", _UTF_8),
    codecs.BOM_UTF32_BE: ("text in UTF-32", _UTF_8),
    codecs.BOM_UTF16_LE: ("text in UTF-16", _UTF_8),
    codecs.BOM_UTF16_BE: ("text in UTF-16", _UTF_8),
}
_HEAD_BYTES = 16
_BLOCK_BYTES = 8 << 20

# Files that `together` has written and not renamed yet; None outside of it.
_waiting: list[tuple[Path, Path]] | None = None

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

    Raises:
        InputError: ``path`` is an input that is protected (`iif.outputs.protect`).
        OSError: it cannot be written; ``filename`` is ``path``.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f'mode is {mode!r}; it must be "w" or "wb"')
    refuse_input(path)
    target = Path(os.path.realpath(path))
    # A short name: that of the target may be as long as the file system allows.
    temporary = target.parent / f"{_TEMPORARY}{os.getpid()}.{secrets.token_hex(6)}"
    text = {"encoding": "utf-8", "newline": ""} if mode == "w" else {}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_special(path):
            with open(path, mode, **text) as f:  # type: ignore[call-overload]
                yield f
            return
        _remove_leftovers(target.parent)
        # Opened as open() would, so that a new file gets the permissions that the user chose.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        with os.fdopen(descriptor, mode, **text) as f:  # type: ignore[call-overload]
            if target.is_file():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            yield f
            f.flush()
            os.fsync(f.fileno())
        if _waiting is None:
            _rename([(temporary, target)])
        else:
            _waiting.append((temporary, target))
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # torch.save puts an error of its own in front of the file system's.
        fault = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(fault, OSError) and fault.filename in (None, str(temporary)):
            # Of a full disk it names nothing, otherwise the temporary file.
            fault.filename = os.fspath(path)
        if isinstance(fault, OSError) and fault is not error:
            raise fault from None
        raise


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Give the files that `atomic_write` makes in the block their names at its end.

    When the block raises, none of them appears and what was there before is left as it was.
    """
    global _waiting
    if _waiting is not None:  # a part of the block around it
        yield
        return
    waiting = _waiting = []
    try:
        yield
        _rename(waiting)
    finally:
        _waiting = None
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)


def _rename(files: list[tuple[Path, Path]]) -> None:
    for temporary, target in files:
        try:
            os.replace(temporary, target)
        except OSError as error:
            error.filename = os.fspath(target)
            raise
    for folder in {target.parent for _, target in files}:
        _sync_folder(folder)


def os_error_text(error: OSError) -> str:
    """Return what the operating system refused, in one line: the file, the reason, a remedy."""
    # Of a worker process the text is a whole traceback, the error at its end.
    text = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if error.filename is not None:
        text = f"{error.filename}: {text}"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{text}; make room and run it again" if full else text


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files that processes of this machine left when they were killed."""
    if os.name != "posix":  # elsewhere a process cannot be asked without harm
        return
    for path in folder.glob(f"{_TEMPORARY}*"):
        process = path.name.removeprefix(_TEMPORARY).partition(".")[0]
        if process.isdecimal() and not _is_alive(int(process)):
            with contextlib.suppress(OSError):  # removed meanwhile, or another user's
                path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make a renamed file's name outlast a power cut, where folders can be opened and synced."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
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
    than its own size and the fields that are asked for. It is read into memory and not mapped: a
    mapped file that another process writes over would change under its readers, or kill them.

    Args:
        path: the file.
        type: a msgspec.Struct or any type that msgspec decodes.
        what: what the file should be, for the error message ("an LVIS-format annotation file").

    Raises:
        InputError: the file is missing, is not JSON (for example cut off) or not in UTF-8, or a
            field is missing or of the wrong type; the message names the file and the place.
    """
    try:
        with open(path, "rb") as f:
            content = memoryview(f.read())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected {what}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; expected {what}") from None
    if not content:
        raise InputError(f"{path}: the file is empty; expected {what}")
    text = content[text_start(content[:_HEAD_BYTES].tobytes(), path) :]
    try:
        return msgspec.json.decode(text, type=type)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: not {what}: {error}") from None
    except msgspec.DecodeError as error:
        refuse_other_encoding(text, path)
        raise InputError(
            f"{path}: not valid JSON ({error}); the file may be cut off: copy or make it again"
        ) from None
    except UnicodeDecodeError:
        refuse_other_encoding(text, path)
        raise
    except RecursionError:
        raise nested_too_deeply(path, what) from None


def text_start(head: bytes, path: str | os.PathLike[str]) -> int:
    """Return how many bytes of a text file to skip: those of UTF-8's byte order mark.

    Args:
        head: the file's first 4 bytes or more.
        path: the file, for the message.

    Raises:
        InputError: they are those of a compressed file or of UTF-16 or UTF-32.
    """
    for magic, (kind, remedy) in _NO_TEXT.items():
        if head.startswith(magic):
            raise InputError(f"{path}: is {kind}; {remedy}")
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def nested_too_deeply(path: str | os.PathLike[str], what: str) -> InputError:
    """Return the error for a file whose brackets are nested beyond what any reader takes."""
    return InputError(f"{path}: lists or objects are nested too deeply; expected {what}")


def refuse_other_encoding(text: memoryview, path: str | os.PathLike[str]) -> None:
    """Raise InputError where a text is not in UTF-8, which JSON must be."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(text), _BLOCK_BYTES):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(text[start : start + _BLOCK_BYTES])
        except UnicodeDecodeError as error:
            place = start - pending + error.start
            raise InputError(
                f"{path}: not in UTF-8, which JSON must be (byte 0x{text[place]:02x} at "
                f"{place:,}); save the file as UTF-8"
            ) from None


def versions() -> dict[str, str]:
    """Return the versions of Python, the platform and every installed package that matters."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _RELEVANT_DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return a checkpoint's path: the file itself, or the last one of an output folder.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint")
        return path
    last = path / layout.LAST_CHECKPOINT
    if not last.is_file():
        raise InputError(f"{path}: holds no checkpoint (no {last.name}); train into it first")
    name = last.read_text(encoding="utf-8", errors="replace").strip()
    if not name or not (path / name).is_file():
        named = f"names {name!r}, which is not there" if name else "is empty"
        raise InputError(
            f"{last}: {named}; write the name of a checkpoint of the folder into it, or remove it "
            "to start anew"
        )
    return path / name
