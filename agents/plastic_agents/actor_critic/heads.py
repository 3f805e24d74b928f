"""Heads of a `RecurrentPolicy`: from a core's outputs to an action distribution, a value and predicted rewards.

Shape letters: N steps, O outputs of the core, P parameters of the distribution over actions, A actions whose rewards
are predicted (0 without prediction), L latent units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from plastic_envs.validation import whole_number

NetArch = Sequence[int] | Mapping[str, Sequence[int]] | None


class PolicyOutput(NamedTuple):
    """Outputs of the policy for N steps.

    Attributes:
        parameters: parameters of the distribution over actions [N, P].
        value: estimated return [N].
        rewards: predicted reward of each action [N, A]; ``None`` unless the policy predicts rewards.
    """

    parameters: Tensor
    value: Tensor
    rewards: Tensor | None


class ReadoutHeads(nn.Module):
    """The core's outputs themselves: parameters, value and rewards; with a separate critic, the value is last.

    Args:
        n_parameters: P.
        n_rewards: A.
        separate_critic: whether the last output is that of a separate critic.
    """

    value_scale = torch.ones(())  # the fast weights of a plastic readout are in units of the rewards

    def __init__(self, n_parameters: int, n_rewards: int, separate_critic: bool) -> None:
        super().__init__()
        self.sizes = (n_parameters, n_rewards)
        self.value_column = n_parameters + n_rewards if separate_critic else n_parameters

    def forward(self, y: Tensor) -> PolicyOutput:
        """Return the policy's outputs for the core's outputs y [N, P + 1 + A]."""
        n_parameters, n_rewards = self.sizes
        rewards = y[:, -n_rewards:] if self.value_column == n_parameters else y[:, n_parameters:-1]
        return PolicyOutput(y[:, :n_parameters], y[:, self.value_column], rewards if n_rewards else None)


class LatentHeads(nn.Module):
    """Two multilayer perceptrons, one for actions and rewards, one for the value, on the core's outputs.

    The unit of the value's perceptron is ``value_scale``, which `rescale_value` changes.

    Args:
        n_parameters: P.
        n_rewards: A.
        latent_size: L, the number of the core's outputs that each perceptron gets.
        separate_critic: whether the value's perceptron has L outputs of its own, those of a separate critic.
        net_arch: sizes of hidden layers, for both perceptrons or in a dict with the keys ``"pi"`` and ``"vf"``, as in
            Stable-Baselines3; ``None`` for no hidden layers.
        activation_fn: class of the nonlinearity.
        activates_inputs: whether the nonlinearity applies to the core's outputs too, before the first layer.
        ortho_init: whether weights are orthogonal at first and biases zero, as in Stable-Baselines3.

    Raises:
        TypeError, ValueError: ``net_arch`` is something else.
    """

    def __init__(
        self,
        n_parameters: int,
        n_rewards: int,
        latent_size: int,
        separate_critic: bool,
        net_arch: NetArch = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        activates_inputs: bool = True,
    ) -> None:
        super().__init__()
        self.sizes, self.latent_size, self.separate_critic = (n_parameters, n_rewards), latent_size, separate_critic
        actor_sizes, critic_sizes = _hidden_sizes(net_arch)
        settings = (activation_fn, ortho_init, activates_inputs)
        self.actor = _perceptron([latent_size, *actor_sizes, n_parameters + n_rewards], *settings)
        self.critic = _perceptron([latent_size, *critic_sizes, 1], *settings)
        self.value_scale: Tensor
        self.register_buffer("value_scale", torch.ones(()))
        if ortho_init:
            # Small weights make the initial policy nearly uniform.
            next(self.actor[-1].parameters()).data[:n_parameters] *= 0.01

    def forward(self, y: Tensor) -> PolicyOutput:
        """Return the policy's outputs for the core's outputs y, [N, L] or with a separate critic [N, 2 L]."""
        actor_latent, critic_latent = y.split(self.latent_size, dim=-1) if self.separate_critic else (y, y)
        parameters, rewards = self.actor(actor_latent).split(self.sizes, dim=-1)
        value = self.critic(critic_latent).squeeze(-1) * self.value_scale
        return PolicyOutput(parameters, value, rewards if self.sizes[1] else None)

    @torch.no_grad()
    def rescale_value(self, scale: float) -> None:
        """Change ``value_scale`` and the last layer of the value's perceptron, so that values stay the same."""
        for parameter in self.critic[-1].parameters():
            parameter.mul_(self.value_scale / scale)
        self.value_scale.fill_(scale)


def _hidden_sizes(net_arch: NetArch) -> tuple[list[int], list[int]]:
    """Return the sizes of the hidden layers of the actor and the critic."""
    if isinstance(net_arch, Mapping):
        if not net_arch.keys() <= {"pi", "vf"}:
            raise ValueError(f"net_arch must have the keys 'pi' and 'vf', got {net_arch!r}")
        architectures = [net_arch.get("pi", ()), net_arch.get("vf", ())]
    else:
        architectures = [net_arch or ()] * 2
    for sizes in architectures:
        if not isinstance(sizes, list | tuple):
            raise TypeError(f"net_arch must be a list of sizes, or a dict of such lists, got {net_arch!r}")
    actor, critic = ([whole_number("net_arch", size, at_least=1) for size in sizes] for sizes in architectures)
    return actor, critic


def _perceptron(
    sizes: list[int], activation_fn: type[nn.Module], ortho_init: bool, activates_inputs: bool
) -> nn.Sequential:
    """Return a perceptron that ends with a linear layer, and may begin with the nonlinearity of its inputs."""
    modules: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        linear = nn.Linear(n_in, n_out)
        if ortho_init:
            is_last = len(modules) == 2 * (len(sizes) - 2)
            nn.init.orthogonal_(linear.weight, 1.0 if is_last else 2**0.5)
            nn.init.zeros_(linear.bias)
        modules += [activation_fn(), linear]
    return nn.Sequential(*modules[not activates_inputs :])
