"""Compile the kernel with the system's C compiler, once for each machine and user, and load it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from plastic_agents.models.plastic.forms.compiled.arguments import check_library
from plastic_agents.models.plastic.forms.compiled.cache import (
    cached_library,
    candidates,
    private_directories,
    remove_abandoned,
)

SOURCES = Path(__file__).parent
C_TYPES = {torch.float32: "float", torch.float64: "double"}
# No reordering of sums beyond those marked in the source, no assumption that NaN and infinity don't occur.
COMMON_FLAGS = (
    *("-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math"),
)
# Tried in this order: not every compiler knows every processor's flags.
TUNING_FLAGS = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp-simd"),
    ("-march=native", "-fopenmp-simd"),
    (),
)


class BuildError(RuntimeError):
    """There is no compiler, or it failed; the message says which, and what the compiler said."""


@functools.cache
def load(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Return the kernel for float32 or float64; None, with one warning, where it can't be built or loaded."""
    try:
        return _load(C_TYPES[dtype])
    except Exception as error:  # an odd environment must not stop anybody's training: the other forms need none of this
        warnings.warn(
            f"plastic networks run several times slower than they could, in PyTorch alone: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _load(c_type: str) -> ctypes.CDLL:
    problems = []
    for compiler in compilers():
        try:
            library = _open(build(compiler, c_type), c_type)
        except (BuildError, OSError, AttributeError) as error:  # the last: a function is missing from the library
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{'; '.join(problems)}; used {shlex.join(compiler)} instead", RuntimeWarning, stacklevel=3)
        return library
    if problems:
        raise BuildError("; ".join(problems))
    raise BuildError("no C compiler found; install gcc or clang, or the package ziglang, which has one")


def _open(path: Path, c_type: str) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    check_library(library, ctypes.sizeof(getattr(ctypes, f"c_{c_type}")))
    for function in (library.most_snapshots, library.scratch_size):
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_void_p]
    library.forward.argtypes = library.backward.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.prefer_large_pages.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.forward.restype = library.backward.restype = library.prefer_large_pages.restype = None
    return library


def compilers() -> Iterator[list[str]]:
    """The commands to try: the variable CC's, the system's, and that of the package ziglang."""
    named = os.environ.get("CC", "")
    try:
        words = shlex.split(named)
    except ValueError:  # an unclosed quotation: no command has that name, and the error says so
        words = [named]
    if words:
        yield words
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if found:
        yield [found]
    package = importlib.util.find_spec("ziglang")
    if package and package.origin:  # by its path: -m would look for it in the working directory first
        yield [sys.executable, str(Path(package.origin).with_name("__main__.py")), "cc"]


def build(compiler: list[str], c_type: str) -> Path:
    """Return the path of the library for one C type; compiled unless an earlier run left it in the cache.

    Raises:
        BuildError: the compiler can't be run, none of the flags work with it, or no place takes the library.
    """
    key = library_key(compiler, c_type)
    problems = []
    for directory in candidates():
        library = cached_library(directory, key)
        if library is not None:
            return library
    for directory in private_directories():
        try:
            return compile_to(directory, key, compiler, c_type)
        except OSError as error:
            problems.append(f"{directory}: {error}")
    raise BuildError(f"the compiled library could not be loaded from {', nor from '.join(problems)}")


def library_key(compiler: list[str], c_type: str) -> str:
    """Return a digest of all that a library depends on: command, compiler, processor, system and sources."""
    key = hashlib.sha256()
    tuning = [shlex.join(flags) for flags in TUNING_FLAGS]
    for part in (c_type, *compiler, *COMMON_FLAGS, *tuning, compiler_version(compiler), processor(), system()):
        key.update(part.encode() + b"\0")
    for source in sorted(SOURCES.glob("*.[ch]")):
        key.update(source.read_bytes())
    return f"{c_type}-{key.hexdigest()[:32]}"


def compile_to(directory: Path, key: str, compiler: list[str], c_type: str) -> Path:
    """Compile under another name and rename: processes that start together never load half a library.

    The new name holds a digest of the content, see `cached_library`.

    Raises:
        BuildError: the compiler can't be run, or none of the flags work with it.
        OSError: the library can't be loaded from this directory.
    """
    # Flags at the end of CC come last again, so that they win.
    own_flags = _trailing_flags(compiler)
    # A C++ compiler takes each file for C++ unless told before each.
    sources = [word for source in sorted(SOURCES.glob("*.c")) for word in ("-x", "c", str(source))]
    remove_abandoned(directory)
    with tempfile.TemporaryDirectory(dir=directory, prefix="build-") as building:
        library = Path(building) / "library.so"
        for tuning in TUNING_FLAGS:
            flags = [*COMMON_FLAGS, *tuning, f"-DREAL={c_type}", *own_flags]
            result = _run([*compiler, *flags, "-o", str(library), *sources, "-lm"])
            if result.returncode == 0 and library.exists():
                break
        else:
            raise BuildError(f"{shlex.join(compiler)} failed: {result.stderr.strip()[-500:] or 'it made no library'}")
        _try_out(library)
        with library.open("rb") as file:
            content = file.read()
            os.fsync(file.fileno())
        final = directory / f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"
        os.replace(library, final)
    return final


def _trailing_flags(compiler: list[str]) -> list[str]:
    first = len(compiler)
    while first > 1 and compiler[first - 1].startswith("-"):
        first -= 1
    return compiler[first:]


def _try_out(library: Path) -> None:
    """Raise OSError unless a process of its own can load the library: some ways to fail end the process."""
    script = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    if sys.executable:
        result = _run([sys.executable, "-I", "-S", "-c", script, str(library)])
        if result.returncode:
            said = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
            raise OSError(said[-1])


def compiler_version(compiler: list[str]) -> str:
    """Return what the compiler says of itself."""
    return _run([*compiler, "--version"]).stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=300, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not be run: {error}") from error


def processor() -> str:
    """Return the processor's model and abilities: a home directory may be shared by machines that differ in them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def system() -> str:
    """Return the operating system, and the C library that the compiled one will ask for."""
    return " ".join((sys.platform, platform.machine(), *platform.libc_ver()))
