"""`AttentionNetwork`: a core without plasticity that attends to the earlier steps of the episode.

Shape letters: T steps, B sequences, I inputs, O outputs, H units, N heads, D = H / N units of a head, C the context.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from plastic_agents.models.core import CoreOutput, RecurrentCore, State, zeroed
from plastic_envs.validation import whole_number

Cache = tuple[Tensor, Tensor]

N_HEADS = 4
# The D / 2 rotations of a head turn by base ** (-2 i / D) radians per step, i = 0, 1, ...
_ROTATION_BASE = 10_000.0


class AttentionHidden(NamedTuple):
    """Hidden state of an `AttentionNetwork`: what the last C steps of the episode left in each block.

    Attributes:
        keys: for each block, keys before their rotation [B, N, C, D], the latest step last; 0 where no step was.
        values: for each block, values [B, N, C, D], in the same order.
        n_earlier: int64 [B, 1], number of steps of the episode so far, which may exceed C.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    n_earlier: Tensor


class AttentionNetwork(RecurrentCore):
    """A small transformer decoder: input layer, blocks of causal self-attention and MLP, layer norm, linear readout.

    A step attends to itself and to the C - 1 steps before it, as far as they belong to its episode. The keys and values
    of these steps are the hidden state, and the network has no other memory. Episodes may be longer than C; the network
    then forgets earlier steps. `unroll` computes all steps of a segment at once.

    Blocks are pre-norm (Xiong et al. 2020, arXiv 2002.04745), and the MLP has 4 H units (GELU). Rotary encodings (Su et
    al. 2021, arXiv 2104.09864) turn queries and keys by angles proportional to their step, so attention depends on the
    distance of two steps. They need no maximal number of steps, and their slow rotations hardly depend on the position,
    which suits tasks where the order of the facts is irrelevant.

    Args:
        input_size: I.
        hidden_size: H, a multiple of 8: there are 4 heads, and rotations act on pairs of units.
        output_size: O.
        n_layers: number of blocks.
        context: C, the number of steps to which a step attends.

    Raises:
        TypeError, ValueError: a size is not a whole number of at least 1, or ``hidden_size`` no multiple of 8.
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, n_layers: int = 1, context: int = 256
    ) -> None:
        super().__init__(input_size, output_size)
        self.hidden_size = check_hidden_size(hidden_size)
        self.context = whole_number("context", context, at_least=1)
        n_layers = whole_number("n_layers", n_layers, at_least=1)
        self.input = nn.Linear(self.input_size, self.hidden_size)
        self.blocks = nn.ModuleList(_Block(self.hidden_size) for _ in range(n_layers))
        self.norm = nn.LayerNorm(self.hidden_size)
        self.readout = nn.Linear(self.hidden_size, self.output_size)

    def initial_state(self, batch_size: int) -> State:
        """Return the state at the start of ``batch_size`` episodes: an empty cache, no fast weights."""
        weight = self.readout.weight
        shape = (batch_size, N_HEADS, self.context, self.hidden_size // N_HEADS)
        keys, values = (tuple(weight.new_zeros(shape) for _ in self.blocks) for _ in range(2))
        return State(AttentionHidden(keys, values, weight.new_zeros(batch_size, 1, dtype=torch.int64)))

    def step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        """Make one step; see `RecurrentCore.step`.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        return self._step(x, state, None)

    @torch.no_grad()
    def act(self, x: Tensor, state: State, episode_starts: Tensor | None = None) -> tuple[CoreOutput, State]:
        """Make one step without a gradient; see `RecurrentCore.act`.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        return self._step(x, state, episode_starts)

    def restarted(self, state: State, episode_starts: Tensor) -> State:
        """Return ``state`` with zeros, which is the initial state, where ``episode_starts`` [B] is true."""
        restarted: State = zeroed(state, episode_starts)
        return restarted

    def unroll_segment(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None
    ) -> tuple[CoreOutput, State]:
        """Attend from all steps at once to the cache and the segment; see `RecurrentCore.unroll_segment`."""
        n_steps, batch_size = xs.shape[:2]
        cache: list[Any]
        if state is None:  # empty slots would cost time
            cache, n_slots, n_earlier = [None] * len(self.blocks), 0, xs.new_zeros(batch_size, 1, dtype=torch.int64)
        else:
            cache, n_slots = list(zip(state.hidden.keys, state.hidden.values, strict=True)), self.context
            n_earlier = state.hidden.n_earlier
        first = _first_steps(n_earlier, n_steps, episode_starts)
        position = torch.arange(-n_slots, n_steps, device=xs.device)
        visible = _visible(position, first, self.context)
        angles = _angles(position, self.hidden_size // N_HEADS, xs.dtype)
        z = self.input(xs).transpose(0, 1)
        for i, block in enumerate(self.blocks):
            z, cache[i] = block(z, cache[i], visible, angles)
        y = self.readout(self.norm(z)).transpose(0, 1)

        is_earlier = None
        if episode_starts is not None:
            last_position = torch.arange(n_steps - self.context, n_steps, device=xs.device)
            is_earlier = (last_position < first[:, -1:])[:, None, :, None]
        keys, values = (
            tuple(_last(tensor, self.context, is_earlier) for tensor in tensors) for tensors in zip(*cache, strict=True)
        )
        return CoreOutput(y), State(AttentionHidden(keys, values, n_steps - first[:, -1:]))

    def _step(self, x: Tensor, state: State, episode_starts: Tensor | None) -> tuple[CoreOutput, State]:
        self.check_step(x, state, episode_starts)
        starts = None if episode_starts is None else episode_starts.unsqueeze(0)
        output, state = self.unroll_segment(x.unsqueeze(0), state, starts)
        return CoreOutput(output.y.squeeze(0)), state


class _Block(nn.Module):
    """z + attention(norm(z)), then z + MLP(norm(z))."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )

    def forward(
        self, z: Tensor, cache: Cache | None, visible: Tensor, angles: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Cache]:
        """Run over a segment.

        Args:
            z: activities [B, T, H].
            cache: keys and values before the segment, each [B, N, C, D]; ``None`` starts episodes.
            visible: bool [B, 1, T, K], the positions to which each step attends: C of the cache and T of the segment.
            angles: cosines and sines of the rotations at these positions.

        Returns:
            The next activities, and the keys and values of all positions, each [B, N, K, D].
        """
        n_steps = z.shape[1]
        heads = self.query_key_value(self.attention_norm(z)).unflatten(-1, (3 * N_HEADS, -1))
        queries, keys, values = heads.transpose(1, 2).chunk(3, dim=1)
        if cache is not None:
            keys, values = torch.cat([cache[0], keys], dim=2), torch.cat([cache[1], values], dim=2)
        cos, sin = angles
        attended = functional.scaled_dot_product_attention(
            _rotated(queries, cos[-n_steps:], sin[-n_steps:]), _rotated(keys, cos, sin), values, attn_mask=visible
        )
        z = z + self.projection(attended.transpose(1, 2).flatten(2))
        return z + self.mlp(z), (keys, values)


def check_hidden_size(hidden_size: int) -> int:
    """Return ``hidden_size``.

    Raises:
        TypeError, ValueError: it is not a whole number of at least 1, or no multiple of 8.
    """
    hidden_size = whole_number("hidden_size", hidden_size, at_least=1)
    if hidden_size % (2 * N_HEADS):
        raise ValueError(f"hidden_size of attention must be a multiple of {2 * N_HEADS}, got {hidden_size}")
    return hidden_size


def _first_steps(n_earlier: Tensor, n_steps: int, episode_starts: Tensor | None) -> Tensor:
    """Return the first step of the episode of each step [B, T], counted from the segment's start."""
    if episode_starts is None:
        return -n_earlier.expand(-1, n_steps)
    step = torch.arange(n_steps, device=n_earlier.device)
    return torch.where(episode_starts.T, step, -n_earlier).cummax(dim=1).values


def _last(tensor: Tensor, context: int, is_earlier: Tensor | None) -> Tensor:
    """Return the last C positions of keys or values [B, N, K, D], with zeros before the first and at earlier episodes.

    ``is_earlier`` is bool [B, 1, C, 1], true at positions of earlier episodes; ``None`` if there are none.
    """
    last = functional.pad(tensor, (0, 0, context - tensor.shape[2], 0))  # a negative number of zeros cuts
    return last if is_earlier is None else last.masked_fill(is_earlier, 0)


def _visible(position: Tensor, first: Tensor, context: int) -> Tensor:
    """Return to which of K positions each step attends, bool [B, 1, T, K]; see `_first_steps` for ``first`` [B, T]."""
    step = torch.arange(first.shape[1], device=first.device)[:, None]
    in_window = (position <= step) & (position > step - context)
    return (in_window & (position >= first[:, :, None])).unsqueeze(1)


def _angles(position: Tensor, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of rotations [K, D / 2] at the positions [K]."""
    # Narrower types have no large positions.
    wide = torch.promote_types(dtype, torch.float32)
    pair = torch.arange(0, head_size, 2, device=position.device, dtype=wide)
    angle = position[:, None] * _ROTATION_BASE ** (-pair / head_size)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _rotated(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return [..., K, D] with unit i of the first half and unit i of the second half rotated together."""
    first, second = tensor.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
