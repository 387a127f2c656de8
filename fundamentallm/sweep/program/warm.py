"""Warm start of a Python script: in a process forked from one that has imported its modules.

The script runs as `__main__` and finds what a new process of Python would give it: arguments,
environment, working folder, search path, signals, random states, and no trace of us. Its end does
what the end of Python does.

The process is forked before the trial starts its first thread, and waits for the word to start: a
fork of several threads could copy a lock that nobody releases.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import gc
import importlib
import io
import itertools
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from multiprocessing import forkserver, process, resource_tracker
from tempfile import TemporaryDirectory
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from fundamentallm.sweep.program import preloaded
from fundamentallm.sweep.program.process import RunningProgram, prepare_child
from fundamentallm.sweep.program.script import is_own
from fundamentallm.sweep.program.search_path import PATH

FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


class WarmProcess(RunningProgram):
    """Python script in a forked process; it waits for `start`."""

    def __init__(
        self, words: Sequence[str], folder: str, environment: Mapping[str, str], script_index: int
    ) -> None:
        """Fork the process, from the main thread and before there is another one.

        Args:
            words: Words of the command: of Python, then the script, then its arguments.
            folder: Folder in which the script starts.
            environment: All its variables.
            script_index: Index of the script in `words`.

        Raises:
            OSError: The system allows no more processes or files.
        """
        self.code: int | None = None
        output, theirs = os.pipe()
        start, self.starts = os.pipe()
        prepare = prepare_child(os.getpid())
        group = os.fork()
        if not group:
            try:
                os.setpgid(0, 0)
                prepare()
                _become(theirs, keep=start)
                if os.read(start, 1):
                    os.close(start)
                    _enter(words, folder, environment, script_index)
                    _end(_run(os.path.abspath(sys.argv[0])))
            except BaseException:  # e.g. the working folder is gone
                traceback.print_exc()
            finally:
                os._exit(1)
        with suppress(PermissionError):  # it may have been faster
            os.setpgid(group, group)
        os.close(theirs)
        os.close(start)
        super().__init__(group, output)

    def start(self) -> WarmProcess:
        """Let the script start, and return its process."""
        os.write(self.starts, b"1")
        os.close(self.starts)
        return self

    def exit_code(self) -> int | None:
        """Return its exit code, or minus the signal that killed it; None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        code = self._wait(0)
        assert code is not None
        return code

    def _wait(self, flags: int) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.group, flags)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code


def _become(output: int, *, keep: int) -> None:
    """Drop what the process has of its parents, and get random states of its own."""
    null = os.open(os.devnull, os.O_RDONLY)
    for theirs, number in ((null, 0), (output, 1), (output, 2)):
        os.dup2(theirs, number)
    for descriptor in preloaded.open_descriptors() - preloaded.DESCRIPTORS - {0, 1, 2, keep}:
        with suppress(OSError):  # the one that listed them
            os.close(descriptor)
    sys.stdin = sys.__stdin__ = open(  # noqa: SIM115 - open until the process ends
        0, encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _reset_multiprocessing()
    _reset_end()
    random.seed()
    libraries: Mapping[str, Any] = sys.modules
    if "numpy.random" in libraries:
        libraries["numpy.random"].seed()
    if "torch" in libraries:
        libraries["torch"].default_generator.seed()


def _reset_multiprocessing() -> None:
    """Make this the main process, without a server or tracker that belongs to the sweep.

    The standard library offers this to nobody but itself.
    """
    multiprocessing.set_start_method(None, force=True)
    server: Any = forkserver
    tracker: Any = resource_tracker
    processes: Any = process
    server._forkserver.__init__()
    tracker._resource_tracker.__init__()
    processes._current_process = type(preloaded.MAIN_PROCESS)()
    processes._parent_process = None
    processes._children = set()
    processes._process_counter = itertools.count(1)


def _reset_end() -> None:
    """Leave to the fork server what its modules want removed at its end, e.g. wandb's folders.

    Python 3.13 clears all that is registered for the end in its fork server's children; what a new
    process would have is registered again.
    """
    finalizers: Any = weakref.finalize
    for each in list(finalizers._registry):
        each.atexit = False
        match each.peek():
            case (TemporaryDirectory() as folder, *_):
                atexit.unregister(folder.cleanup)
    finalizers._registered_with_atexit = False  # the next one registers them
    atexit.register(logging.shutdown)


def _enter(
    words: Sequence[str], folder: str, environment: Mapping[str, str], script_index: int
) -> None:
    """Set environment, working folder, arguments, search path and `__main__` for a script."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    script = words[script_index]
    own = os.path.dirname(os.path.realpath(script))
    sys.orig_argv = list(words[os.path.basename(words[0]) == "env" :])
    sys.argv = list(words[script_index:])
    sys.path[:] = [*([] if sys.flags.safe_path else [own]), *PATH]
    process.ORIGINAL_DIR = os.getcwd()  # pyright: ignore[reportAttributeAccessIssue]
    importlib.invalidate_caches()
    _forget_shadowed(own)
    path = os.path.abspath(script)
    main: Any = ModuleType("__main__")
    main.__file__ = path
    main.__cached__ = None
    main.__annotations__ = {}
    main.__loader__ = SourceFileLoader("__main__", path)
    main.__builtins__ = builtins
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


def _forget_shadowed(folder: str) -> None:
    """Forget modules for which the script has its own of the same name, which Python finds first.

    Modules in Python's binary come before both.
    """
    names = {entry.partition(".")[0] for entry in os.listdir(folder)} & sys.modules.keys()
    own = {name for name in names if not _in_binary(name) and is_own(name, folder)}
    for name in list(sys.modules):
        if name.partition(".")[0] in own:
            del sys.modules[name]


def _in_binary(name: str) -> bool:
    spec = getattr(sys.modules[name], "__spec__", None)
    return spec is not None and spec.origin in ("built-in", "frozen")


def _run(path: str) -> int:
    """Run a script as `__main__`, and return its exit code; an error is shown as Python does."""
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        print(f"{sys.executable}: can't open file {path!r}: {error}", file=sys.stderr)
        return 2
    try:
        exec(compile(source, path, "exec", dont_inherit=True), sys.modules["__main__"].__dict__)
    except SystemExit as stop:
        return _exit_code(stop.code)
    except BaseException as error:
        frames = _without_us(error.__traceback__)
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, frames
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(code: object) -> int:
    """Return the exit code of `sys.exit(code)`; show a text, as Python does."""
    if code is None or isinstance(code, int):
        return int(code or 0) & 0xFF
    sys.stdout.flush()
    print(code, file=sys.stderr)
    return 1


def _without_us(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return frames


def _end(code: int) -> NoReturn:
    """End the process, with all that Python does at its end."""
    private: Any = (threading, atexit)
    with suppress(KeyboardInterrupt):
        private[0]._shutdown()
    private[1]._run_exitfuncs()
    for each in gc.get_objects():
        if type(each) in FILES:
            with suppress(OSError, ValueError):  # a broken pipe, a closed file
                each.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)
