"""Building, caching and loading of the compiled form, and the fallback if one of them fails."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from plastic_agents.models.plastic.forms.compiled import arguments, build, cache, kernel
from plastic_agents.models.plastic.forms.compiled.generate import generate
from plastic_agents.models.plastic.forms.compiled.program import trace_step
from plastic_agents.models.plastic.network import PlasticNetwork

SYSTEM_COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
needs_compiler = pytest.mark.skipif(SYSTEM_COMPILER is None, reason="needs a C compiler")
needs_root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="needs root")


@pytest.fixture(scope="module")
def source():
    """The generated source of a small network, for float."""
    network = PlasticNetwork(3, 4, 1, "rnn", "hebbian")
    return generate(trace_step(network, torch.float32), torch.float32.itemsize).source


@pytest.fixture(scope="module")
def built(tmp_path_factory, source):
    """A cache with the system compiler's two libraries of this source in it."""
    cache_dir = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_dir))
        for text in (build.KERNEL, source):
            build.build([SYSTEM_COMPILER], text, "float")
    return cache_dir


@pytest.fixture
def unbuilt(monkeypatch, tmp_path):
    """A process that has not built any kernel yet, with an empty cache and an empty temporary directory."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(kernel, "_KERNELS", {})
    build.load.cache_clear()
    yield tmp_path / "cache"
    build.load.cache_clear()


@pytest.fixture
def cached(unbuilt, built):
    """The same, with the system compiler's libraries in the cache."""
    shutil.copytree(built, unbuilt)
    return unbuilt / "plastic-rnn"


def library_of(cached, source):
    """Return the library of the cache that was built from this source."""
    key = build.library_key([SYSTEM_COMPILER], source, "float")
    (library,) = cached.glob(f"{key}-*.so")
    return library


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def run_python(script, **environment):
    """Run a script in a process where a warning is an error; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


RUNS_COMPILED = """
import torch
from plastic_agents.models.plastic.network import PlasticNetwork
network, xs = PlasticNetwork(3, 20, 2, "lstm", "hebbian"), torch.randn(5, 6, 3)
forms = [network.unroll(xs, form=form)[0].y for form in ("compiled", "auto", "dense")]
print(all(torch.allclose(y, forms[0], atol=1e-6) for y in forms))
"""


def test_without_a_compiler_the_other_forms_do_the_work(unbuilt, no_compiler):
    network = PlasticNetwork(3, 4, 1)
    xs = torch.randn(3, 2, 3)
    with pytest.warns(RuntimeWarning, match="no C compiler found; install gcc or clang") as caught:
        output, _ = network.unroll(xs)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning is not repeated
        torch.testing.assert_close(network.unroll(xs, form="dense")[0].y, output.y)
        with torch.no_grad():
            torch.testing.assert_close(network.unroll(xs)[0].y, output.y)
        with pytest.raises(RuntimeError, match="needs a C compiler"):
            network.unroll(xs, form="compiled")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # as Python does, show a warning once
        for cell in ("lstm", "gru", "rnn"):
            PlasticNetwork(3, 4, 1, cell).unroll(xs)
    assert len(caught) == 1


@needs_compiler
def test_a_source_that_does_not_compile_is_no_error(cached, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # ziglang is slow
    with pytest.warns(RuntimeWarning, match="run in PyTorch alone.* failed: .*error") as caught:
        assert build.load("this is no C", torch.float32) is None
    assert len(caught) == 1
    assert not list(cached.glob("build-*")), "no unfinished build stays behind"


@needs_compiler
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-compiler", "no-such-compiler could not be run"),
        ('"', "could not be run"),
        ("false", "false failed"),
        ("true", "it made no library"),
        ("cat", "cat failed"),
    ],
)
def test_an_odd_cc_is_named_and_another_compiler_used(cached, source, monkeypatch, command, message):
    monkeypatch.setenv("CC", command)
    with pytest.warns(RuntimeWarning, match=message) as caught:
        assert build.load(source, torch.float32) is not None
    assert len(caught) == 1
    assert f"used {SYSTEM_COMPILER} instead" in str(caught[0].message)
    assert not list(cached.glob("build-*")), "no unfinished build stays behind"


@needs_compiler
def test_a_compiler_that_ends_the_process_at_load_is_not_trusted(cached, source, monkeypatch):
    """A library built with -fsanitize=address does so unless the sanitizer's library is loaded first."""
    failing = "void __attribute__((constructor)) end(void) { __builtin_trap(); }\\n"
    script = f"printf '{failing}' | {SYSTEM_COMPILER} -x c -shared -fPIC -o $out -"
    fake = cached.parent / "fake-cc"
    fake.write_text(f'#!/bin/sh\nwhile [ "$1" ]; do [ "$1" = -o ] && out=$2; shift; done\n[ -z "$out" ] || {script}\n')
    fake.chmod(0o700)
    monkeypatch.setenv("CC", str(fake))
    with pytest.warns(RuntimeWarning, match="could not be loaded"):
        assert build.load(source, torch.float32) is not None


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_cpp_compiler_works(unbuilt, source, monkeypatch):
    monkeypatch.setenv("CC", "g++")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build.load(source, torch.float32) is not None


def test_the_key_holds_everything_that_a_library_depends_on(monkeypatch):
    monkeypatch.setattr(build, "compiler_version", lambda compiler: "1.0")
    cases = [(["cc"], "a", "float"), (["cc"], "a", "double"), (["cc"], "b", "float"), (["gcc"], "a", "float")]
    keys = {build.library_key(*case) for case in (*cases, (["cc", "-fsanitize=address"], "a", "float"))}
    for name, value in (
        ("compiler_version", lambda compiler: "1.1"),
        ("cpu_model", lambda: "another"),
        ("system", lambda: "another"),
        ("COMMON_FLAGS", ("-O0",)),
        ("TUNING_FLAGS", (("-march=native",),)),
        ("SOURCES", Path(__file__).parent),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(build, name, value)
            keys.add(build.library_key(["cc"], "a", "float"))
    assert len(keys) == 11


@needs_compiler
def test_a_read_only_cache_is_used(cached, source, monkeypatch):
    """As in a container image with a filled cache: permissions don't stop root, so no directory is writable here."""
    monkeypatch.setattr(build, "private_directories", lambda: iter(()))
    assert build.build([SYSTEM_COMPILER], source, "float").parent == cached


@needs_compiler
def test_folders_of_builds_that_were_killed_are_removed(cached):
    for name, age in (("build-old", 7200), ("build-new", 0)):
        (cached / name).mkdir()
        then = (cached / name).stat().st_mtime - age
        os.utime(cached / name, (then, then))
    cache.remove_abandoned(cached)
    assert not (cached / "build-old").exists()
    assert (cached / "build-new").exists()


@needs_compiler
def test_generated_code_without_a_step_is_not_used(cached, monkeypatch):
    monkeypatch.setattr(build, "compilers", lambda: iter([[SYSTEM_COMPILER]]))
    with pytest.warns(RuntimeWarning, match="the compiled library has no 'step'"):
        assert build.load('#include "kernel.h"\n', torch.float32) is None


@needs_compiler
def test_a_library_without_its_functions_is_not_used(cached, source, monkeypatch):
    monkeypatch.setenv("CC", f"{SYSTEM_COMPILER} -fvisibility=hidden")
    with pytest.warns(RuntimeWarning, match="does not describe its arguments"):
        assert build.load(source, torch.float32) is not None


def test_the_working_directory_holds_no_compiler(tmp_path, monkeypatch):
    """``python -m ziglang`` would run a module from there."""
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang" / "__main__.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CC", raising=False)
    for command in build.compilers():
        assert "-m" not in command
        assert build.compiler_version(command)
        assert "run" not in build._run(command).stderr


def test_flags_of_cc_come_last():
    assert build._trailing_flags(["gcc", "-m64", "-O1"]) == ["-m64", "-O1"]
    assert build._trailing_flags(["ccache", "gcc"]) == []
    assert build._trailing_flags(["python", "-m", "a", "cc"]) == []


@needs_compiler
def test_it_is_built_once(cached, source, monkeypatch):
    monkeypatch.setattr(build, "compile_to", None)
    library = build.build([SYSTEM_COMPILER], source, "float")
    assert library.parent == cached
    assert stat.S_IMODE(cached.stat().st_mode) == 0o700


@needs_compiler
@pytest.mark.parametrize(("is_step", "size"), [(True, 0), (True, 100), (False, 100), (True, 5000)])
def test_a_truncated_library_is_built_again(cached, source, is_step, size):
    library = library_of(cached, source if is_step else build.KERNEL)
    content = library.read_bytes()
    library.write_bytes(content[:size])
    assert build.load(source, torch.float32) is not None
    assert library.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix permissions")
def test_a_library_that_others_can_write_is_not_loaded(tmp_path):
    name = "key-e3b0c44298fc1c149afbf4c8996fb924.so"  # the digest of nothing
    library = tmp_path / name
    library.touch(mode=0o600)
    assert cache.cached_library(tmp_path, "key") == library
    library.chmod(0o620)
    assert cache.cached_library(tmp_path, "key") is None
    library.chmod(0o600)
    library.rename(tmp_path / "elsewhere")
    library.symlink_to(tmp_path / "elsewhere")
    assert cache.cached_library(tmp_path, "key") is None


@needs_root
def test_the_library_of_another_user_is_not_loaded(cached, source):
    library = library_of(cached, source)
    key = library.stem.rpartition("-")[0]
    assert cache.cached_library(cached, key) == library
    os.chown(library, 12345, 12345)
    assert cache.cached_library(cached, key) is None
    os.chown(cached, 12345, 12345)
    assert next(cache.private_directories()) == Path(tempfile.gettempdir()) / "plastic-rnn-0"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix permissions")
@pytest.mark.parametrize("trouble", ["no home", "a file", "writable by others", "a link"])
def test_an_unusable_cache_is_replaced_by_the_temporary_directory(unbuilt, monkeypatch, trouble):
    if trouble == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    elif trouble == "a file":
        unbuilt.write_text("a file where the folder should be")
    elif trouble == "a link":
        unbuilt.mkdir()
        (unbuilt / "plastic-rnn").symlink_to(unbuilt)
    else:
        (unbuilt / "plastic-rnn").mkdir(parents=True)
        (unbuilt / "plastic-rnn").chmod(0o777)
    directories = list(cache.private_directories())
    assert directories[0] == Path(tempfile.gettempdir()) / f"plastic-rnn-{os.geteuid()}"
    assert stat.S_IMODE(directories[0].stat().st_mode) == 0o700
    shutil.rmtree(directories[-1])


@needs_compiler
def test_a_noexec_cache_is_skipped(unbuilt, source, monkeypatch):
    """Libraries can't be loaded from a home directory that is mounted noexec."""
    try_out = build._try_out

    def refuse(library):
        if unbuilt in library.parents:
            raise OSError("failed to map segment from shared object")
        try_out(library)

    monkeypatch.setattr(build, "_try_out", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build.load(source, torch.float32) is not None
    assert len(list((Path(tempfile.gettempdir())).glob("plastic-rnn-*/float-*.so"))) == 2


@needs_compiler
def test_the_last_resort_directory_is_removed_at_exit(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (temporary / f"plastic-rnn-{os.geteuid()}").touch()
    assert run_python(RUNS_COMPILED, XDG_CACHE_HOME=str(tmp_path / "cache"), TMPDIR=str(temporary)) == "True\n"
    assert len(list(temporary.iterdir())) == 1


@needs_compiler
def test_a_library_with_another_argument_layout_is_refused(cached, source, monkeypatch):
    library = ctypes.CDLL(str(library_of(cached, build.KERNEL)))
    arguments.check_library(library, 4)
    with pytest.raises(OSError, match=r"must be laid out as in arguments\.py"):
        arguments.check_library(library, 8)
    fields = list(arguments.Arguments._fields_)
    fields[17], fields[18] = fields[18], fields[17]
    swapped = type("Arguments", (ctypes.Structure,), {"_fields_": fields})
    monkeypatch.setattr(arguments, "Arguments", swapped)
    with pytest.raises(OSError, match=r"must be laid out as in arguments\.py"):
        arguments.check_library(library, 4)
    with pytest.raises(OSError, match="does not describe"):
        arguments.check_library(ctypes.CDLL(str(library_of(cached, source))), 4)


@needs_compiler
def test_processes_that_build_at_the_same_time(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", RUNS_COMPILED]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(list((tmp_path / "plastic-rnn").glob("*.so"))) == 2


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs the package ziglang")
def test_the_package_ziglang_is_the_last_compiler_to_try(tmp_path):
    empty = tmp_path / "bin"
    empty.mkdir()
    environment = {"PATH": str(empty), "CC": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert run_python(RUNS_COMPILED, **environment) == "True\n"
