"""Pickles of arrays are read, whoever wrote them; all others are refused before anything in them runs."""

import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from plastic_envs.images import unpickling
from plastic_envs.images.unpickling import read_pickle


def parse_pickle(data, name):
    return unpickling.parse_pickle(io.BytesIO(data), name)


DTYPES = st.sampled_from(["u1", "<i8", ">i4", "<f4", ">f8", "?", "<u2"])


@settings(max_examples=60)
@given(
    array=DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))),
    fortran=st.booleans(),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_what_numpy_pickles_comes_back(array, fortran, protocol):
    array = np.asfortranarray(array) if fortran else array
    read = parse_pickle(pickle.dumps({"data": array, "more": [(1, 2.5, "x", None, True)]}, protocol), "it")
    np.testing.assert_array_equal(read["data"], array)
    assert read["data"].dtype == array.dtype and read["data"].shape == array.shape
    assert read["more"] == [(1, 2.5, "x", None, True)]


def test_scalars_of_numpy_become_numbers():
    assert parse_pickle(pickle.dumps([np.int64(3), np.float32(0.5)]), "it") == [3, 0.5]


def test_what_python_2_wrote_is_read():
    """Its strings are bytes, and its numpy has other module names; written out by hand as it did."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nI3\ntcnumpy\ndtype\n"
    array += b"(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x01\\x02\\xfd\\xfe\\xff'\ntb"
    read = parse_pickle(b"(dS'data'\n" + array + b"sS'labels'\n(lI4\nasS'u'\nVabc\ns.", "it")
    np.testing.assert_array_equal(read[b"data"], np.array([[0, 1, 2], [253, 254, 255]], np.uint8))
    assert read[b"labels"] == [4] and read[b"u"] == "abc"


class Runs:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


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
    ids=lambda hostile: type(hostile).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_everything_else_is_refused_and_nothing_runs(hostile, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pickle"
    path.write_bytes(pickle.dumps({"data": hostile}, protocol))
    with pytest.raises(ValueError, match=r"hostile\.pickle is refused.*(asks for|holds)"):
        read_pickle(path)
    assert list(tmp_path.iterdir()) == [path]


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
PLAIN = RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR"
BYTE = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"\x80\x04\x95", "damaged"),
        (b"cplastic_envs.images.unpickling\nread_pickle\n.", "asks for plastic_envs"),
        (b"Pelsewhere\n.", "refers to objects outside"),
        (b"\x82\x01.", "damaged"),
        (RECONSTRUCT + b".", "holds a _StandIn"),
        (RECONSTRUCT + b"}S'_function'\ncnumpy\nndarray\nsb.", "changes a function"),
        (PLAIN + b".", "array without content"),
        (PLAIN + b"(I1\n(I4\nt" + BYTE + b"I00\nS'abc'\ntb.", "with 3 bytes, not 4"),
        (PLAIN + b"(I1\n(I-1\nI-3\nt" + BYTE + b"I00\nS'abc'\ntb.", r"shape \(-1, -3\)"),
        (PLAIN + b"(I1\n(I99999999999999\nt" + BYTE + b"I00\nS'abc'\ntb.", "with 3 bytes"),
        (PLAIN + b"(I1\n(I3\nt" + BYTE + b"I00\n(lI1\natb.", "not plain bytes"),
        (PLAIN + b"(I1\n(I3\ntS'u1'\nI00\nS'abc'\ntb.", "not plain bytes"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "no plain kind of number"),
        (b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'?'\ntb.", "byte order"),
        (b"c_codecs\nencode\n(Vabc\nVzlib\ntR.", "encodes text as 'zlib'"),
        (b"]q\x00h\x00a.", "damaged"),
        (b"B" + struct.pack("<I", 2**31) + b"abc.", "damaged"),
    ],
)
def test_programs_written_by_hand_are_refused(program, named):
    with pytest.raises(ValueError, match=named):
        parse_pickle(program, "it")


@settings(max_examples=200)
@given(data=st.data())
def test_damage_is_named_wherever_it_is(data):
    whole = pickle.dumps({"data": np.arange(6, dtype=np.uint8), "labels": [1, 2]}, data.draw(st.integers(0, 5)))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match=r"it is (damaged|refused)"):
        parse_pickle(whole[:cut], "it")
    place, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    changed = whole[:place] + bytes([byte]) + whole[place + 1 :]
    if "LONG_BINPUT" in {opcode.name for opcode, *_ in _opcodes(changed)}:
        return  # a huge memo is only memory, which the test should not take
    try:
        parse_pickle(changed, "it")
    except ValueError as error:
        assert "it is" in str(error)


def _opcodes(program):
    try:
        return list(pickletools.genops(program))
    except Exception:
        return []


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pickle"):
        read_pickle(tmp_path / "none.pickle")
