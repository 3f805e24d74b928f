"""Pickles of arrays are read; other pickles are refused before any code in them runs."""

import io
import os
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from plastic_envs.images import safe_pickle
from plastic_envs.images.cifar_fs import read_cifar_fs
from plastic_envs.images.safe_pickle import read_pickle


def parse_pickle(data, name):
    return safe_pickle.parse_pickle(io.BytesIO(data), name)


DTYPES = st.sampled_from(["u1", "<i8", ">i4", "<f4", ">f8", "?", "<u2"])


@settings(max_examples=60)
@given(
    array=DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))),
    fortran=st.booleans(),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_numpy_arrays_survive_a_round_trip(array, fortran, protocol):
    array = np.asfortranarray(array) if fortran else array
    read = parse_pickle(pickle.dumps({"data": array, "more": [(1, 2.5, "x", None, True)]}, protocol), "it")
    np.testing.assert_array_equal(read["data"], array)
    assert read["data"].dtype == array.dtype
    assert read["data"].shape == array.shape
    assert read["more"] == [(1, 2.5, "x", None, True)]


def test_numpy_scalars_become_python_numbers():
    assert parse_pickle(pickle.dumps([np.int64(3), np.float32(0.5)]), "it") == [3, 0.5]


def test_python_2_pickles_are_read():
    """Python 2 has bytes as strings and other names of numpy modules; this pickle is written by hand in its format."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nI3\ntcnumpy\ndtype\n"
    array += b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x01\\x02\\xfd\\xfe\\xff'\ntb"
    read = parse_pickle(b"(dS'data'\n" + array + b"sS'labels'\n(lI4\nasS'u'\nVabc\ns.", "it")
    np.testing.assert_array_equal(read[b"data"], np.array([[0, 1, 2], [253, 254, 255]], np.uint8))
    assert read[b"labels"] == [4]
    assert read[b"u"] == "abc"


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call

    def __repr__(self):
        # Test ids must be the same in all processes, so they have no address.
        return f"Runs({self.call[0].__name__})"


MARK = "ran"


@pytest.mark.parametrize(
    "hostile",
    [
        Runs(os.system, (f"touch {MARK}",)),
        Runs(exec, (f"open({MARK!r}, 'w')",)),
        Runs(getattr, ("text", "upper")),
        Runs(np.load, (MARK,)),
        Runs(np.frombuffer, (b"1", "O")),
        np.array([Runs(os.system, (f"touch {MARK}",))], dtype=object),
        np.zeros(2, dtype=[("a", "u1"), ("b", "f4")]),
        np.array(["text"]),
        np.datetime64("2020-01-01"),
        {1, 2},
        3 + 4j,
        Runs,
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_and_other_objects_are_refused_without_running_code(hostile, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pickle"
    path.write_bytes(pickle.dumps({"data": hostile}, protocol))
    with pytest.raises(ValueError, match=r"hostile\.pickle is refused.*it (refers to|has) "):
        read_pickle(path)
    assert list(tmp_path.iterdir()) == [path]


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
PLAIN = RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR"
BYTE = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"\x80\x04\x95", "damaged"),
        (
            b"cplastic_envs.images.safe_pickle\nread_pickle\n.",
            r"refers to plastic_envs\.images\.safe_pickle\.read_pickle",
        ),
        (b"Pelsewhere\n.", "refers to objects outside"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"\x8f.", "opcode EMPTY_SET"),
        (b"(i__main__\nRuns\n.", "opcode INST"),
        (b"\xff.", "damaged"),
        (b"\x80\x06N.", "damaged.*unknown protocol 6"),
        (RECONSTRUCT + b".", "it has a function"),
        (b"K\x01)R.", "it calls a int"),
        (RECONSTRUCT + b"]R.", "it calls a function"),
        (b"K\x01K\x02a.", "it has a int instead of a list"),
        (b"](K\x01K\x02u.", "it has a list instead of a dict"),
        (b"}(K\x01\x85K\x02u.", "it has a dict with a tuple as a key"),
        (b"(K\x01d.", "damaged"),
        (b"]d.", "damaged"),
        (b"K\x01\x93.", "damaged"),
        (b"](\x93.", "name that is not a string"),
        (b"K\x01}b.", "changes a int"),
        (b"Sabc\n.", "damaged.*a string without quotes"),
        (RECONSTRUCT + b"}S'_function'\ncnumpy\nndarray\nsb.", "changes a function"),
        (PLAIN + b".", "array without content"),
        (PLAIN + b"(I1\n(I4\nt" + BYTE + b"I00\nS'abc'\ntb.", "with 3 bytes, not 4"),
        (PLAIN + b"(I1\n(I-1\nI-3\nt" + BYTE + b"I00\nS'abc'\ntb.", r"shape \(-1, -3\)"),
        (PLAIN + b"(I1\n(I99999999999999\nt" + BYTE + b"I00\nS'abc'\ntb.", "with 3 bytes"),
        (PLAIN + b"(I1\n(I3\nt" + BYTE + b"I00\n(lI1\natb.", "not plain bytes"),
        (PLAIN + b"(I1\n(I3\ntS'u1'\nI00\nS'abc'\ntb.", "not plain bytes"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "not a plain numeric dtype"),
        (b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'?'\ntb.", "byte order"),
        (b"c_codecs\nencode\n(Vabc\nVzlib\ntR.", "encodes text as 'zlib'"),
        (b"]q\x00h\x00a.", "more than 32 deep"),
        (b"(" * 33 + b"t" * 33 + b"\x85" * 2 + b".", "more than 32 deep"),
        (b"B" + struct.pack("<I", 2**31) + b"abc.", "damaged"),
    ],
)
def test_invalid_pickle_programs_are_refused(program, named):
    with pytest.raises(ValueError, match=named):
        parse_pickle(program, "it")


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_pickles_raise_value_error(data):
    valid = pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, 2]}, data.draw(st.integers(0, 5)))
    cut = data.draw(st.integers(0, len(valid) - 1))
    with pytest.raises(ValueError, match=r"it is (damaged|refused)"):
        parse_pickle(valid[:cut], "it")
    position, byte = data.draw(st.integers(0, len(valid) - 1)), data.draw(st.integers(0, 255))
    changed = valid[:position] + bytes([byte]) + valid[position + 1 :]
    try:
        parse_pickle(changed, "it")
    except ValueError as error:
        assert "it is" in str(error)  # noqa: PT017 - most changed bytes are an error, not all


def lists_of_lists(levels):
    """Return a pickle of a list that contains the same list twice, and so on for all levels."""
    return b"]" + b"".join(b"q%c](h%ch%ce" % (level, level, level) for level in range(levels)) + b"."


def tuples_of_tuples(levels):
    """Return the beginning of a pickle that leaves nested tuples on the stack and in the memo."""
    return b")" + b"".join(b"q%c(h%ch%ct" % (level, level, level) for level in range(levels))


def test_shared_objects_are_read_once():
    shared = [1, 2]
    array = np.arange(3)
    read = parse_pickle(pickle.dumps({"a": [shared, shared], "b": (array, array)}), "it")
    assert read["a"] == [shared, shared]
    assert read["a"][0] is read["a"][1]
    assert read["b"][0] is read["b"][1]
    assert read["b"][0].tolist() == [0, 1, 2]
    read = parse_pickle(lists_of_lists(30), "it")
    for _ in range(30):
        assert len(read) == 2
        assert read[0] is read[1]
        read = read[0]


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (lists_of_lists(60), "more than 32 deep"),
        # Python hashes the keys of a dict, and errors contain the text of the invalid value.
        (tuples_of_tuples(60) + b"}(h\x3bNu.", "a tuple as a key"),
        (lists_of_lists(30)[:-1] + b"c_codecs\nencode\n(Vx\nh\x1dtR.", "encodes text as a list"),
        (tuples_of_tuples(60) + PLAIN + b"(I1\nh\x3b" + BYTE + b"I00\nS'abc'\ntb.", "shape a tuple"),
        # The same hundred thousand bytes, two thousand times.
        (
            b"]("
            + (b"c_codecs\nencode\n(V" + b"x" * 100_000 + b"\nq\x01Vlatin1\ntR")
            + b"c_codecs\nencode\n(h\x01Vlatin1\ntR" * 2000
            + b"e.",
            "more than 4 times the size of the file",
        ),
    ],
    ids=["depth", "keys", "encoding", "shape", "copies"],
)
def test_pickle_bombs_are_refused_quickly(program, named):
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=named):
            parse_pickle(program, "it")
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 5


def test_a_large_memo_index_takes_no_memory():
    tracemalloc.start()
    try:
        assert parse_pickle(b"Nr" + struct.pack("<I", 2**31) + b".", "it") is None
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("call", [read_pickle, lambda path: read_cifar_fs(path.parent, 32)])
def test_irregular_files_are_refused(tmp_path, call):
    """The example is a pipe, from which reading would block forever."""
    for name in ("CIFAR_FS_train.pickle", "CIFAR_FS_val.pickle", "CIFAR_FS_test.pickle"):
        os.mkfifo(tmp_path / name)
    with pytest.raises((ValueError, FileNotFoundError), match=r"not a regular file|lacks"):
        call(tmp_path / "CIFAR_FS_train.pickle")


def test_missing_file_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pickle"):
        read_pickle(tmp_path / "none.pickle")
