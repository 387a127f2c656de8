"""Builds and loads kernels.c, where there is a compiler; everything works without.

The library is kept in the user's cache, under a name made of the source, the compiler and the
processor, so that it is built once for each kind of machine that shares a home folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

from fundamentallm.token_cache import cache_folder

SWITCH = "FUNDAMENTALLM_KERNELS"
FLAGS = ("-O3", "-funroll-loops", "-march=native", "-fno-math-errno", "-fopenmp")
FLAGS += ("-shared", "-fPIC", "-w")
BUILD_SECONDS = 60
RETRY_SECONDS = 24 * 3600  # after which what failed is tried again: memory or a disk was full
P, F, N = ctypes.c_void_p, ctypes.c_float, ctypes.c_int64
ARGUMENTS = {
    "attention_forward": [P] * 5 + [N] * 4,
    "attention_backward": [P] * 7 + [N] * 4,
    "norm_forward": [P] * 3 + [F] + [N] * 2,
    "norm_backward": [P] * 4 + [N] * 2,
    "dropout": [P] * 3 + [N, F, N],
    "project_forward": [P] * 5 + [N, F, N, F] + [N] * 3,
    "project_backward": [P] * 6 + [N, F, N, F] + [N] * 3,
    "mlp_forward": [P] * 6 + [N, F, F] + [N] * 3,
    "mlp_backward": [P] * 9 + [N, F, F] + [N] * 3,
    "orthogonalise": [P] * 3 + [N, F] + [N] * 3,
}


@cache
def kernels() -> ctypes.CDLL | None:
    """The functions of kernels.c; None where they cannot be built, or FUNDAMENTALLM_KERNELS=0."""
    if os.environ.get(SWITCH) == "0" or sys.platform == "win32":
        return None
    with suppress(OSError):
        return _load()
    return None


def usable_for(x: torch.Tensor) -> bool:
    """Whether `x`, of any shape, is where kernels.c works: on a CPU, and not compiled."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and kernels() is not None


def call(name: str, *arguments: torch.Tensor | float) -> None:
    """A function of kernels.c, on contiguous tensors (float32, seeds int64) and numbers; 0 is NULL.

    Raises:
        MemoryError: It had not enough.
    """
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    values = [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments]
    if getattr(kernels(), name)(*values):
        raise MemoryError(f"{name}: not enough memory for {[tuple(x.shape) for x in tensors]}")


def _load() -> ctypes.CDLL | None:
    source = files("fundamentallm").joinpath("kernels.c").read_bytes()
    compilers = filter(None, map(shutil.which, ("gcc", "cc", "clang")))
    errors: list[Exception] = []
    tried = (_built(compiler, source, errors) for compiler in compilers)
    library = next(filter(None, tried), None)
    if library is None and errors:
        print(f"warning: kernels.c could not be built ({errors[0]}); training goes on without it, "
              "slower", file=sys.stderr)  # fmt: skip
    if library is None or not (_is_ours(library) and _is_ours(library.parent)):
        return None
    found = ctypes.CDLL(str(library))
    for name, arguments in ARGUMENTS.items():
        getattr(found, name).argtypes = arguments
    return found


def _built(compiler: str, source: bytes, errors: list[Exception]) -> Path | None:
    """The library that this compiler makes; None if it cannot, which is kept in mind."""
    about = os.stat(compiler)
    compiled_by = f"{compiler} {about.st_mtime} {about.st_size}"
    known = [source, " ".join(FLAGS).encode(), compiled_by.encode(), _processor().encode()]
    name = hashlib.sha256(b"\0".join(known)).hexdigest()[:20]
    library = cache_folder() / "kernels" / f"{name}.so"
    failed = library.with_suffix(".failed")
    with suppress(FileNotFoundError):
        if time.time() - failed.stat().st_mtime < RETRY_SECONDS:
            return None
    if not library.exists():
        try:
            _build(compiler, source, library)
        except subprocess.SubprocessError as error:
            if getattr(error, "returncode", 1) < 0:  # killed, for no fault of its own
                return None
            failed.touch()
            errors.append(error)
            return None
    return library


def _build(compiler: str, source: bytes, library: Path) -> None:
    """Compile to another name and rename, so that two at once do each other no harm."""
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        code, part = Path(folder, "kernels.c"), Path(folder, "kernels.so")
        code.write_bytes(source)
        words = [compiler, *FLAGS, "-o", str(part), str(code), "-lm"]
        # A session of its own: Ctrl-C is for us, and what was begun is wanted next time.
        subprocess.run(words, check=True, capture_output=True, timeout=BUILD_SECONDS,
                       start_new_session=True)  # fmt: skip
        part.chmod(0o700)  # whatever the umask: see _is_ours
        os.replace(part, library)


def _is_ours(path: Path) -> bool:
    """Whether nobody else could have written it: what lies there is code that will run."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _processor() -> str:
    """What -march=native looks at, as far as the system tells."""
    about = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").split("\n\n")[0]
        about += [x for x in lines.splitlines() if x.startswith(("flags", "model", "Features"))]
    return "\n".join(about)
