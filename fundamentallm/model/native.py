"""Build and load kernels.c, if there is a compiler; everything works without it.

The library is kept in the user's cache, under a name derived from the source, the compiler and the
processor, so that it is built once for each type of machine that shares a home folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

from fundamentallm.data.token_cache import cache_folder

LOG = logging.getLogger(__name__)

SWITCH = "FUNDAMENTALLM_KERNELS"
FLAGS = ("-O3", "-funroll-loops", "-march=native", "-fno-math-errno", "-pthread")
FLAGS += ("-shared", "-fPIC", "-w")
BUILD_SECONDS = 60
MOST_TOLD = 200  # characters of a compiler's message
RETRY_SECONDS = 24 * 3600  # before trying again: memory or a disk may have been full
SIGNATURES = {
    "attention_forward": ("3BTHD TD/2 TD/2 BTHD BTH", "BTHD"),
    "attention_backward": ("3BTHD TD/2 TD/2 BTHD BTH BTHD 3BTHD", "BTHD"),
    "norm_forward": ("NC NC N", ".NC"),
    "norm_backward": ("NC N NC NC", "NC"),
    "dropout": ("N N seed", "#.N"),
    "project_forward": ("NK KO NO? NO seed", "#.#.NKO"),
    "project_backward": ("NK KO NO NK KO seed", "#.#.NKO"),
    "mlp_forward": ("NC 2CF CF NC 2NF seed", "#..NCF"),
    "mlp_backward": ("NC 2CF CF 2NF NC NC 2CF CF seed", "#..NCF"),
    "orthogonalize": ("NRC NRC 3Q", "Q.NRC"),
}
"""Arguments of each function of kernels.c after the number of threads: tensors, then numbers.

A tensor is described by its number of elements: a product of the numbers with these letters. With
`?` it may be omitted. `.` is a float; `#` and letters are integers.
"""


class _Tensor:
    """Requirements of a function for one of its tensors."""

    def __init__(self, count: str, numbers: str) -> None:
        self.dtype = torch.int64 if count == "seed" else torch.float32
        self.optional = count.endswith("?")
        letters = "" if count == "seed" else count.rstrip("?").removesuffix("/2")
        self.halved = "/2" in count
        self.factor = int(letters[0]) if letters[:1].isdigit() else 1
        self.places = [numbers.index(letter) for letter in letters if letter.isalpha()]

    def address(self, tensor: torch.Tensor | float, numbers: Sequence[float]) -> int | None:
        """Return the tensor's address; None if it does not fit, since C would read it anyway."""
        if not isinstance(tensor, torch.Tensor):
            return 0 if self.optional and tensor == 0 else None
        count = self.factor
        for place in self.places:
            count *= int(numbers[place])
        as_expected = (
            tensor.dtype is self.dtype
            and tensor.is_cpu
            and tensor.numel() == (count // 2 if self.halved else count)
            and tensor.is_contiguous()
        )
        address = tensor.data_ptr() if as_expected else 1
        return None if address % self.dtype.itemsize else address


TENSORS = {
    name: [_Tensor(count, numbers) for count in counts.split()]
    for name, (counts, numbers) in SIGNATURES.items()
}


@cache
def kernels() -> ctypes.CDLL | None:
    """Return the functions of kernels.c; None if they cannot be built or are turned off.

    FUNDAMENTALLM_KERNELS=0 turns them off. A failure is logged once, unless there is no compiler.
    """
    if os.environ.get(SWITCH) == "0" or sys.platform == "win32":
        return None
    try:
        with _folder() as folder:
            return _load(_built_by_any(folder))
    except _NotBuiltError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.strerror else str(error)
    if reason:
        LOG.warning(
            "kernels.c could not be built: %s; training continues without it, more slowly", reason
        )
    return None


class _NotBuiltError(Exception):
    """Reason why kernels.c was not built; "" if there is no compiler, which is no fault."""


def usable_for(x: torch.Tensor) -> bool:
    """Return whether kernels.c can process `x`, any shape: on a CPU, not compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and kernels() is not None


class _Team(threading.local):
    threads = 0


_team = _Team()


def team() -> int:
    """Return the number of threads of kernels.c; its results do not depend on it."""
    return _team.threads or torch.get_num_threads()


@contextmanager
def working_with(threads: int) -> Iterator[None]:
    """Let kernels.c use `threads` threads in this context; by default as many as torch."""
    before, _team.threads = _team.threads, threads
    try:
        yield
    finally:
        _team.threads = before


def call(name: str, *arguments: torch.Tensor | float) -> None:
    """Call a function of kernels.c on contiguous tensors (float32, seeds int64) and numbers.

    A tensor given as 0 is NULL.

    Raises:
        TypeError: A tensor does not fit, and C would read it anyway.
        MemoryError: Memory ran out.
    """
    expected = TENSORS[name]
    given = arguments[: len(expected)]
    numbers = [x for x in arguments[len(expected) :] if not isinstance(x, torch.Tensor)]
    addresses = [e.address(x, numbers) for e, x in zip(expected, given, strict=True)]
    if None in addresses:
        raise TypeError(f"{name}: {_shown(given[addresses.index(None)])} does not fit")
    if getattr(kernels(), name)(team(), *addresses, *numbers):
        raise MemoryError(f"{name}: not enough memory for {', '.join(map(_shown, given))}")


def _shown(x: torch.Tensor | float) -> str:
    if not isinstance(x, torch.Tensor):
        return repr(x)
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device}"


def _load(library: Path) -> ctypes.CDLL:
    """Load the open file that was checked, since its name may lead elsewhere by now."""
    opened = os.open(library, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    about = os.fstat(opened)  # it stays open: the loader identifies libraries by this path
    if not stat.S_ISREG(about.st_mode) or not _is_ours(about):
        os.close(opened)
        raise _NotBuiltError(f"{library} can be written by others; remove it")
    by_number = Path(f"/proc/self/fd/{opened}")
    found = ctypes.CDLL(str(by_number if by_number.exists() else library))
    for name, (counts, numbers) in SIGNATURES.items():
        pointers = [ctypes.c_void_p] * len(counts.split())
        kinds = [ctypes.c_float if kind == "." else ctypes.c_int64 for kind in numbers]
        getattr(found, name).argtypes = [ctypes.c_int64, *pointers, *kinds]
    return found


@contextmanager
def _folder() -> Iterator[Path]:
    """Return the library's folder; a temporary one if others could write to it."""
    kept = Path(os.path.realpath(cache_folder() / "kernels"))
    for missing in [each for each in (*reversed(kept.parents), kept) if not each.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)
    unsafe = _open_to_others(kept)
    if unsafe is None:
        yield kept
        return
    LOG.warning(
        "%s can be written by others: kernels.c is built for this process alone; give "
        "XDG_CACHE_HOME a folder that only you can write",
        unsafe,
    )
    with tempfile.TemporaryDirectory(prefix="kernels-") as private:
        own = Path(os.path.realpath(private))
        if unsafe := _open_to_others(own):
            raise _NotBuiltError(f"{unsafe} can be written by others")
        yield own


def _open_to_others(folder: Path) -> Path | None:
    """Return a folder on this path, itself included, in which others may replace files."""
    for each in (folder, *folder.parents):
        about = each.stat()
        shared = about.st_mode & stat.S_ISVTX and each != folder  # /tmp: only owners may rename
        if about.st_uid not in (0, os.getuid()) or (_others_write(about) and not shared):
            return each
    return None


def _built_by_any(folder: Path) -> Path:
    first: _NotBuiltError | None = None
    for compiler in filter(None, map(shutil.which, ("gcc", "cc", "clang"))):
        try:
            return _built(compiler, folder)
        except _NotBuiltError as error:
            first = first or error
    raise first or _NotBuiltError


def _built(compiler: str, folder: Path) -> Path:
    """Return the library that this compiler builds; a failure is remembered for a day."""
    source = files("fundamentallm.model").joinpath("kernels.c").read_bytes()
    about = os.stat(compiler)
    compiled_by = f"{compiler} {about.st_mtime} {about.st_size}"
    known = [source, " ".join(FLAGS).encode(), compiled_by.encode(), _processor().encode()]
    name = hashlib.sha256(b"\0".join(known)).hexdigest()[:20]
    library = folder / f"{name}.so"
    failed = library.with_suffix(".failed")
    with suppress(FileNotFoundError):
        if time.time() - failed.stat().st_mtime < RETRY_SECONDS:
            raise _NotBuiltError(failed.read_text("utf-8"))
    if not library.exists():
        try:
            _build(compiler, source, library)
        except subprocess.SubprocessError as error:
            reason = _reason(compiler, error)
            if getattr(error, "returncode", 1) > 0:  # unless it was killed
                failed.write_text(reason, "utf-8")
            raise _NotBuiltError(reason) from None
    return library


def _reason(compiler: str, error: subprocess.SubprocessError) -> str:
    """Return a compiler's first error, or else its last line."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{compiler} took more than {BUILD_SECONDS} s"
    assert isinstance(error, subprocess.CalledProcessError)
    if error.returncode < 0:
        return f"{compiler} was killed by signal {-error.returncode}"
    said = [x.strip() for x in error.stderr.decode("utf-8", "replace").splitlines() if x.strip()]
    errors = [line for line in said if "error" in line.lower()]
    told = (errors or said[-1:] or [f"exit code {error.returncode}"])[0]
    return f"{compiler}: {told[:MOST_TOLD]}"


def _build(compiler: str, source: bytes, library: Path) -> None:
    """Compile under another name and rename, so that two processes may build at once."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        code, part = Path(folder, "kernels.c"), Path(folder, "kernels.so")
        code.write_bytes(source)
        words = [compiler, *FLAGS, "-o", str(part), str(code), "-lm"]
        # In a new session, so that Ctrl-C does not end it: the library is useful next time.
        subprocess.run(words, check=True, capture_output=True, timeout=BUILD_SECONDS,
                       start_new_session=True)  # fmt: skip
        part.chmod(0o700)  # independent of the umask: see _is_ours
        os.replace(part, library)


def _is_ours(about: os.stat_result) -> bool:
    """Return whether only this user could have written the file, whose code will run."""
    return about.st_uid == os.getuid() and not _others_write(about)


def _others_write(about: os.stat_result) -> bool:
    return bool(about.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _processor() -> str:
    """Describe the processor as -march=native sees it, as far as the system tells."""
    about = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").split("\n\n")[0]
        about += [x for x in lines.splitlines() if x.startswith(("flags", "model", "Features"))]
    return "\n".join(about)
