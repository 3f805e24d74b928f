"""The pieces of a segment between its episode starts, side by side, so that a recurrent module needs few calls.

Shape letters: T steps and B sequences of the segment, P pieces.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Chunk(NamedTuple):
    """Some steps of all pieces that are long enough, for one call of a recurrent module.

    Attributes:
        steps: indices t B + b of steps in the segment, [L, p] for the first p pieces. A piece that ends inside the
            chunk has further steps as padding, whose outputs nothing reads.
        finished: those of the p pieces that end with the chunk and with the segment.
    """

    steps: np.ndarray
    finished: np.ndarray


class EpisodePieces(NamedTuple):
    """The pieces of a segment, the longest first.

    Attributes:
        sequences: the sequence of each piece [P].
        is_restart: whether a piece begins with an episode, and not with the segment's first state: bool [P].
        chunks: the pieces cut at a few lengths, from the first steps to the last.
        outputs: index of each step in the outputs of all chunks together: [T, B].
        finals: index of each sequence's last piece in the ``finished`` pieces of all chunks together: [B].
    """

    sequences: np.ndarray
    is_restart: np.ndarray
    chunks: list[Chunk]
    outputs: np.ndarray
    finals: np.ndarray


def episode_pieces(starts: np.ndarray, most_padding: int) -> EpisodePieces:
    """Cut a segment at its episode starts, bool [T, B].

    Each chunk has at most ``most_padding`` steps of padding for pieces that wait for its end.
    """
    n_steps, batch_size = starts.shape
    is_first = starts.T.copy()
    is_first[:, 0] = True
    sequences, begins = np.nonzero(is_first)
    following = np.append(begins[1:], 0)
    is_last = following == 0
    lengths = np.where(is_last, n_steps, following) - begins
    order = np.argsort(-lengths, kind="stable")
    sequences, begins, is_last, lengths = sequences[order], begins[order], is_last[order], lengths[order]
    chunks = []
    outputs = np.empty(n_steps * batch_size, np.int64)
    n_outputs = 0
    for first, end in pairwise([0, *_chunk_ends(lengths, is_last, most_padding)]):
        n_pieces = np.count_nonzero(lengths > first)
        rows = np.arange(first, end)[:, None]
        is_step = rows < lengths[:n_pieces]
        steps = (begins[:n_pieces] + np.where(is_step, rows, 0)) * batch_size + sequences[:n_pieces]
        outputs[steps[is_step]] = n_outputs + np.flatnonzero(is_step)
        n_outputs += steps.size
        chunks.append(Chunk(steps, np.flatnonzero(is_last[:n_pieces] & (lengths[:n_pieces] == end))))
    finished = np.concatenate([sequences[chunk.finished] for chunk in chunks])
    return EpisodePieces(
        sequences,
        (begins > 0) | starts[0, sequences],
        chunks,
        outputs.reshape(n_steps, batch_size),
        np.argsort(finished),
    )


def _chunk_ends(lengths: np.ndarray, is_last: np.ndarray, most_padding: int) -> list[int]:
    """Return lengths at which to cut the pieces, among them that of each sequence's last piece, for its final state."""
    ends = []
    required = set(lengths[is_last].tolist())
    distinct, counts = np.unique(lengths, return_counts=True)
    waiting = padding = 0
    for (length, following), count in zip(pairwise(distinct.tolist()), counts.tolist(), strict=False):
        waiting += count
        padding += waiting * (following - length)
        if length in required or padding > most_padding:
            ends.append(length)
            waiting = padding = 0
    return [*ends, int(distinct[-1])]
