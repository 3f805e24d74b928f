"""Compile generated code with the system's C compiler, once for each machine and user, and load it."""

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from plastic_agents.models.plastic.forms.compiled.arguments import address_in, check_library
from plastic_agents.models.plastic.forms.compiled.cache import (
    cached_library,
    candidates,
    private_directories,
    remove_abandoned,
)

SOURCES = Path(__file__).parent
C_TYPES = {torch.float32: "float", torch.float64: "double"}
# These flags reorder no sums except those marked in the source, and allow NaN and infinity.
COMMON_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math")
# The build tries these in order, because some compilers lack flags for some CPUs.
TUNING_FLAGS = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp-simd"),
    ("-march=native", "-fopenmp-simd"),
    (),
)


# The files that are the same for all networks are a library of their own.
KERNEL = "".join(f'#include "{name}.c"\n' for name in ("passes", "forward", "backward", "pool"))


class Libraries(NamedTuple):
    """The kernel, and the generated step of a network.

    Attributes:
        kernel: the library with the functions to call.
        passes, step: addresses of what ``Arguments`` refers to, in the kernel and in the step's library.
        verified: the file that says that the step has been verified; it need not exist.
    """

    kernel: ctypes.CDLL
    passes: int
    step: int
    verified: Path


class BuildError(RuntimeError):
    """There is no compiler, or it failed; the message has the command and the compiler's output."""


@functools.cache
def load(source: str, dtype: torch.dtype) -> Libraries | None:
    """Return the libraries of a generated source and a dtype; None, with a warning, if they can't be built."""
    try:
        return _load(source, C_TYPES[dtype])
    except Exception as error:  # no odd environment may stop training: the other forms need no compiler
        warnings.warn(
            f"plastic networks run in PyTorch alone, several times slower than compiled: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def has_compiler() -> bool:
    """Return whether a C compiler is installed; one that does not work gives a warning when it is used."""
    return next(compilers(), None) is not None


def _load(source: str, c_type: str) -> Libraries:
    problems = []
    for compiler in compilers():
        try:
            libraries = _open(compiler, source, c_type)
        except (BuildError, OSError, AttributeError) as error:  # the last: a function is missing from the library
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{'; '.join(problems)}; used {shlex.join(compiler)} instead", RuntimeWarning, stacklevel=3)
        return libraries
    if problems:
        raise BuildError("; ".join(problems))
    raise BuildError("no C compiler found; install gcc or clang, or the package ziglang, which has one")


def _open(compiler: list[str], source: str, c_type: str) -> Libraries:
    with ThreadPoolExecutor(1) as executor:  # two compilers work at the same time
        kernel_path = executor.submit(build, compiler, KERNEL, c_type)
        path = build(compiler, source, c_type)
    kernel, step = ctypes.CDLL(str(kernel_path.result())), ctypes.CDLL(str(path))
    check_library(kernel, ctypes.sizeof(getattr(ctypes, f"c_{c_type}")))
    for function in (kernel.most_snapshots, kernel.worker_size):
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_void_p]
    for function in (kernel.forward, kernel.backward, kernel.prefer_large_pages):
        function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_int64]
    return Libraries(kernel, address_in(kernel, "passes"), address_in(step, "step"), path.with_suffix(".verified"))


def compilers() -> Iterator[list[str]]:
    """Yield the compiler commands to try: the variable CC, the system's compiler, the package ziglang."""
    variable = os.environ.get("CC", "")
    try:
        words = shlex.split(variable)
    except ValueError:  # an unclosed quotation: running it fails with an error that names it
        words = [variable]
    if words:
        yield words
    system_compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if system_compiler:
        yield [system_compiler]
    package = importlib.util.find_spec("ziglang")
    if package and package.origin:  # by path, because -m looks in the working directory first
        yield [sys.executable, str(Path(package.origin).with_name("__main__.py")), "cc"]


def build(compiler: list[str], source: str, c_type: str) -> Path:
    """Return the path of the library of a generated source for one C type; compile it unless it is in the cache.

    Raises:
        BuildError: the compiler can't be run, none of the flags work with it, or no directory can hold the library.
    """
    key = library_key(compiler, source, c_type)
    problems = []
    for directory in candidates():
        library = cached_library(directory, key)
        if library is not None:
            return library
    for directory in private_directories():
        try:
            return compile_to(directory, key, compiler, source, c_type)
        except OSError as error:
            problems.append(f"{directory}: {error}")
    raise BuildError(f"the compiled library could not be loaded from {', nor from '.join(problems)}")


def library_key(compiler: list[str], source: str, c_type: str) -> str:
    """Return a digest of everything that a library depends on: command, compiler, CPU, system and sources."""
    key = hashlib.sha256()
    tuning = [shlex.join(flags) for flags in TUNING_FLAGS]
    for text in (source, c_type, *compiler, *COMMON_FLAGS, *tuning, compiler_version(compiler), cpu_model(), system()):
        key.update(text.encode() + b"\0")
    for path in sorted(SOURCES.glob("*.[ch]")):
        key.update(path.read_bytes())
    return f"{c_type}-{key.hexdigest()[:32]}"


def compile_to(directory: Path, key: str, compiler: list[str], source: str, c_type: str) -> Path:
    """Compile to a temporary name, then rename, so that no concurrent process loads an incomplete library.

    The final name has a digest of the content, see `cached_library`.

    Raises:
        BuildError: the compiler can't be run, or none of the flags work with it.
        OSError: the library can't be loaded from this directory.
    """
    # Flags at the end of CC are repeated last, so that they override ours.
    cc_flags = _trailing_flags(compiler)
    remove_abandoned(directory)
    with tempfile.TemporaryDirectory(dir=directory, prefix="build-") as building:
        library, step = Path(building) / "library.so", Path(building) / "step.c"
        step.write_text(source)
        for tuning in TUNING_FLAGS:
            flags = [*COMMON_FLAGS, *tuning, f"-DREAL={c_type}", f"-I{SOURCES}", *cc_flags]
            result = _run([*compiler, *flags, "-o", str(library), "-x", "c", str(step), "-x", "none", "-lm"])
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
    begin = len(compiler)
    while begin > 1 and compiler[begin - 1].startswith("-"):
        begin -= 1
    return compiler[begin:]


def _try_out(library: Path) -> None:
    """Load the library in a separate process, because some failures end the process.

    Raises:
        OSError: it can't be loaded.
    """
    script = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    if sys.executable:
        result = _run([sys.executable, "-I", "-S", "-c", script, str(library)])
        if result.returncode:
            messages = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
            raise OSError(messages[-1])


def compiler_version(compiler: list[str]) -> str:
    """Return the output of the compiler's ``--version``."""
    return _run([*compiler, "--version"]).stdout


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=300, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} could not be run: {error}") from error


def cpu_model() -> str:
    """Return the CPU's model and features: machines with different CPUs may have the same home directory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def system() -> str:
    """Return the operating system, and the C library that the compiled library links to."""
    return " ".join((sys.platform, platform.machine(), *platform.libc_ver()))
