"""Compile the kernel with the system's C compiler, once for each machine, and load it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
C_TYPES = {torch.float32: "float", torch.float64: "double"}
# No reordering of sums beyond those marked in the source, no assumption that NaN and infinity don't occur.
COMMON_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
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
    """The kernel for float32 or float64; None, with one warning, where it can't be built."""
    try:
        library = ctypes.CDLL(str(build(C_TYPES[dtype])))
    except (BuildError, OSError) as error:
        warnings.warn(
            f"plastic networks run several times slower than they could, in PyTorch alone: {error}. "
            "A C compiler (gcc or clang) on the PATH, or named by the variable CC, would make them faster.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    library.scratch_size.restype = ctypes.c_int64
    library.scratch_size.argtypes = [ctypes.c_void_p]
    library.forward.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    library.backward.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    library.prefer_large_pages.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.forward.restype = library.backward.restype = library.prefer_large_pages.restype = None
    return library


def build(c_type: str) -> Path:
    """Path of the library for one C type; compiled unless an earlier run left it in the cache.

    Raises:
        BuildError: no compiler, or none of the flags work with it.
    """
    compiler = (
        shlex.split(os.environ.get("CC", ""))
        or [found for found in map(shutil.which, ("cc", "gcc", "clang")) if found][:1]
    )
    if not compiler:
        raise BuildError("no C compiler found")
    sources = sorted(SOURCES.glob("*.[ch]"))
    key = hashlib.sha256()
    for part in (c_type, *COMMON_FLAGS, *map(str, TUNING_FLAGS), compiler_version(compiler), processor()):
        key.update(part.encode() + b"\0")
    for source in sources:
        key.update(source.read_bytes())
    directory = cache_directory()
    library = directory / f"episode-{c_type}-{key.hexdigest()[:24]}.so"
    if not library.exists():
        compile_to(library, compiler, c_type, [str(source) for source in sources if source.suffix == ".c"])
    return library


def compile_to(library: Path, compiler: list[str], c_type: str, sources: list[str]) -> None:
    """Compile under another name and rename: processes that start together never load half a library."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    try:
        for tuning in TUNING_FLAGS:
            command = [*compiler, *COMMON_FLAGS, *tuning, f"-DREAL={c_type}", "-o", name, *sources, "-lm"]
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=300)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BuildError(f"{shlex.join(compiler)} could not be run: {error}") from error
            if result.returncode == 0:
                os.replace(name, library)
                return
        raise BuildError(f"{shlex.join(compiler)} failed: {result.stderr.strip()[-500:]}")
    finally:
        Path(name).unlink(missing_ok=True)


def cache_directory() -> Path:
    """The user's cache, or where that can't be written a directory for this process alone."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = root / "plastic_envs"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError:
        return Path(tempfile.mkdtemp(prefix="plastic_envs-"))


def compiler_version(compiler: list[str]) -> str:
    """What the compiler says of itself."""
    try:
        return subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{shlex.join(compiler)} could not be run: {error}") from error


def processor() -> str:
    """The processor's model and abilities: a home directory may be shared by machines that differ in them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
