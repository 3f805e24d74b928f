"""The policy: features of the observation, a recurrent core, and from its output an action and a value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution, make_proba_distribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from plastic_agents.actor_critic.observation_encoder import ObservationEncoder
from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.core import State, as_core, map_state
from plastic_agents.models.image_core import image_shape

NetworkMaker = Callable[[int, int], nn.Module]
Outputs = Literal["readout", "heads"]
# A relu RNN has no bound of its own: where a hidden unit exceeds this, the core restarts from its initial state.
MAX_ACTIVITY = 1000.0


class PolicyOutput(NamedTuple):
    """What the policy says of N steps.

    Attributes:
        parameters: of the distribution over actions [N, P].
        value: [N].
        rewards: predicted reward of each action [N, A]; None unless the policy predicts rewards.
    """

    parameters: Tensor
    value: Tensor
    rewards: Tensor | None


class RecurrentPolicy(BasePolicy):
    """An actor-critic with one recurrent core, for any observation and action space that Stable-Baselines3 takes.

    Args:
        observation_space, action_space: of the environment.
        lr_schedule: gives the optimiser its first learning rate.
        use_sde: must be False.
        network: the core: a description, or a function from input size and output size to a network with the interface
            of `plastic_agents.Network`, its state a tensor [N, ...], or tuples, lists or dicts of such.
        outputs: ``"readout"``: the core's outputs are the distribution's parameters and the value, so that in a plastic
            network fast weights reach them too; ``"heads"``: the core's ``latent_size`` outputs go through tanh into
            linear heads.
        latent_size: number of the core's outputs for ``outputs="heads"``.
        predicts_reward: whether there are outputs that predict the reward of each action, for an auxiliary loss;
            Discrete actions only.
        log_std_init: of Box actions: the first logarithm of the standard deviation, which does not depend on the state.
        features_extractor_class, features_extractor_kwargs, normalize_images, optimizer_class, optimizer_kwargs: as in
            Stable-Baselines3's policies.

    Raises:
        ValueError: unknown ``outputs``, ``use_sde``, spaces that do not count from 0, or rewards to be predicted for
            actions that are not Discrete.
        TypeError: a network that lacks a part of the interface.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        use_sde: bool = False,
        network: NetworkConfig | NetworkMaker = NetworkConfig(),
        outputs: Outputs = "readout",
        latent_size: int = 64,
        predicts_reward: bool = False,
        log_std_init: float = 0.0,
        features_extractor_class: type[BaseFeaturesExtractor] = ObservationEncoder,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde must be False: the recurrent policies have no state-dependent exploration")
        if outputs not in get_args(Outputs):
            raise ValueError(f"outputs must be one of {get_args(Outputs)}, got {outputs!r}")
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            if _counts_from_elsewhere(space):
                raise ValueError(f"{name} must count from 0, as Stable-Baselines3 does, got {space}")
        if predicts_reward and not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"rewards can be predicted for Discrete actions only, got {action_space}")
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5} if issubclass(optimizer_class, torch.optim.Adam) else {}
        extractor_kwargs = dict(features_extractor_kwargs or {})
        if not normalize_images and issubclass(features_extractor_class, ObservationEncoder):
            extractor_kwargs["normalized_image"] = True
        make: NetworkMaker
        if isinstance(network, NetworkConfig):
            make = partial(network.make, image_shape=image_shape(observation_space))
            if network.encoder.pretraining:
                raise ValueError(
                    f"encoder.pretraining must be 0 in a policy, got {network.encoder.pretraining}: "
                    "see ReinforcementLearner"
                )
            if network.encoder.name != "none":
                extractor_kwargs["flat_images"] = True
        else:
            make = network
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.features_extractor = self.make_features_extractor()
        self.action_dist: Distribution = make_proba_distribution(action_space)
        n_rewards = _parameters(action_space) if predicts_reward else 0  # Discrete: a parameter for each action
        self.sizes = (_parameters(action_space), 1, n_rewards)
        output_size = sum(self.sizes) if outputs == "readout" else latent_size
        self.core = as_core("network", make(self.features_extractor.features_dim, output_size))
        self.heads: nn.Module
        if outputs == "readout":
            self.heads = nn.Identity()
        else:
            linear = nn.Linear(latent_size, sum(self.sizes))
            nn.init.orthogonal_(linear.weight)
            nn.init.zeros_(linear.bias)
            # The first policy is to be nearly uniform.
            linear.weight.data[: self.sizes[0]] *= 0.01
            self.heads = nn.Sequential(nn.Tanh(), linear)
        if isinstance(self.action_dist, DiagGaussianDistribution):
            self.log_std = nn.Parameter(torch.full((self.sizes[0],), float(log_std_init)))
        make_optimizer: Any = optimizer_class  # the base class takes no learning rate
        self.optimizer = make_optimizer(self.parameters(), lr=lr_schedule(1), **optimizer_kwargs)

    def inputs(self, observations: PyTorchObs) -> Tensor:
        """Observations [..., obs] (or a dict of such) to the core's inputs [..., I]."""
        shape = _leading(observations, self.observation_space)
        flat = _map_observation(lambda part: part.flatten(0, len(shape) - 1), observations)
        return self.extract_features(flat, self.features_extractor).unflatten(0, shape)

    def read_outputs(self, y: Tensor) -> PolicyOutput:
        """Read the core's outputs y [..., O]; leading axes become one.

        Raises:
            FloatingPointError: an output of the policy is NaN or infinite.
        """
        outputs = self.heads(y.flatten(0, -2))
        if not torch.isfinite(outputs).all():
            raise FloatingPointError("the policy's outputs are not finite: has its training diverged?")
        parameters, value, rewards = outputs.split(self.sizes, dim=-1)
        return PolicyOutput(parameters, value.squeeze(-1), rewards if self.sizes[2] else None)

    def distribution(self, parameters: Tensor) -> Distribution:
        """The distribution over actions, one for each row of ``parameters`` [N, P].

        Raises:
            FloatingPointError: the standard deviation of Box actions is zero, NaN or infinite.
        """
        if isinstance(self.action_dist, DiagGaussianDistribution):
            std = self.log_std.exp()
            if not (torch.isfinite(std) & (std > 0)).all():
                raise FloatingPointError(f"the standard deviation of the actions is {std.tolist()}")
            return self.action_dist.proba_distribution(parameters, self.log_std)
        return self.action_dist.proba_distribution(parameters)

    def initial_state(self, n_envs: int) -> State:
        """The state at the start of ``n_envs`` episodes."""
        state: State = self.core.initial_state(n_envs)
        return state

    def core_starts(self, state: State, episode_starts: Tensor) -> Tensor:
        """Return which cores start from their initial state before a step: bool [N].

        That is at the start of an episode, and after an overflow: where the absolute value of a unit in
        ``state.hidden.h`` exceeds ``MAX_ACTIVITY``. The states of other kinds of cores are taken as they are.
        """
        activity = getattr(getattr(state, "hidden", None), "h", None)
        if activity is None:
            return episode_starts
        overflow: Tensor = (activity.abs() > MAX_ACTIVITY).any(dim=-1)
        return episode_starts | overflow

    def forward(
        self, obs: PyTorchObs, state: State, core_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        """Act for one step: actions, values [N], log-probabilities [N], the next state.

        Where ``core_starts`` (bool [N]) is true the core starts from its initial state; the method of that name makes
        it. A core with ``act``, as plastic networks have, acts in the memory of ``state``, which is lost.
        """
        inputs = self.inputs(obs)
        output, state = self.core.act(inputs, state, core_starts)
        parameters, value, _ = self.read_outputs(output.y)
        distribution = self.distribution(parameters)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, value, distribution.log_prob(actions), state

    def predict_values(self, obs: PyTorchObs, state: State) -> Tensor:
        """Values [N] of observations met in ``state``, which is left alone."""
        inputs = self.inputs(obs)
        none = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        state = self._restarted(state, self.core_starts(state, none))
        return self.read_outputs(self.core.step(inputs, state)[0].y).value

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, state: State | None, core_starts: Tensor
    ) -> tuple[PolicyOutput, Tensor, Tensor, Tensor | None]:
        """Sequences over again, with a gradient.

        Args:
            obs: [T, B, ...].
            actions: what was done [T B, A], or [T B] for Discrete actions.
            state: before the first step; None where the core starts from its initial state in all sequences.
            core_starts: bool [T, B], true where the core starts from its initial state.

        Returns:
            Outcome, log-probabilities and entropies [T B], and the plasticity rate eta [T, B]; None without plasticity.

        Raises:
            FloatingPointError: an output of the policy is NaN or infinite.
        """
        output, _ = self.core.unroll(self.inputs(obs), state, core_starts)
        outcome = self.read_outputs(output.y)
        distribution = self.distribution(outcome.parameters)
        log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
        assert entropy is not None  # only distributions that Stable-Baselines3 uses with use_sde have none
        return outcome, log_prob, entropy, output.eta

    @torch.no_grad()
    def predict(  # type: ignore[override]  # the state is a structure of its own
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, State]:
        """Actions for one observation or a batch, and the state to give with the next; ``state`` is left alone.

        Args:
            observation: as the environment gives it, [...] or [N, ...].
            state: what the last call returned; None begins episodes.
            episode_start: bool [N], true where an episode begins: the state is reset there.
            deterministic: the distribution's mode instead of a sample.

        Raises:
            TypeError: ``observation`` is a tuple, such as Gymnasium's ``reset`` returns.
            FloatingPointError: an output of the policy is NaN or infinite.
        """
        if isinstance(observation, tuple):
            raise TypeError(f"observation must be an array or a dict, without the info of reset, got {observation!r}")
        self.set_training_mode(False)
        obs, vectorised = self.obs_to_tensor(observation)
        inputs = self.inputs(obs)
        if state is None:
            state = self.initial_state(len(inputs))
        else:
            given = False if episode_start is None else np.asarray(episode_start, dtype=bool)
            starts = torch.tensor(np.broadcast_to(given, len(inputs)), device=inputs.device)
            state = self._restarted(state, self.core_starts(state, starts))
        output, state = self.core.step(inputs, state)
        parameters = self.read_outputs(output.y).parameters
        actions = self.to_actions(self.distribution(parameters).get_actions(deterministic=deterministic))
        return (actions if vectorised else actions.squeeze(axis=0)), state

    def _restarted(self, state: State, starts: Tensor) -> State:
        """``state`` with the initial state where ``starts`` [N] is true."""
        if not starts.any():
            return state
        if starts.all():
            return self.initial_state(len(starts))
        lanes = starts.nonzero().flatten()
        fresh = self.initial_state(len(lanes))
        begun: State = map_state(lambda old, new: old.index_copy(0, lanes, new), state, fresh)
        return begun

    def to_actions(self, actions: Tensor) -> np.ndarray:
        """A distribution's actions [N, ...] as the environment takes them: Box actions are cut to their bounds."""
        array: np.ndarray = actions.cpu().numpy().reshape((-1, *(self.action_space.shape or ())))
        if isinstance(self.action_space, spaces.Box):
            return array.clip(self.action_space.low, self.action_space.high)
        return array

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        raise NotImplementedError("a recurrent policy acts through predict or forward, which take a state")

    def save(self, path: str) -> None:
        """Not there: what is needed beside the parameters is in the model's file."""
        raise NotImplementedError("policies are saved with their models, by model.save")

    @classmethod
    def load(cls, path: str, device: torch.device | str = "auto") -> NoReturn:
        """Not there: what Stable-Baselines3's reads could run code."""
        raise NotImplementedError("policies are loaded with their models, such as by RecurrentPPO.load")


def _counts_from_elsewhere(space: spaces.Space) -> bool:
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return any(np.any(getattr(part, "start", 0)) for part in parts)


def _parameters(space: spaces.Space) -> int:
    """How many parameters a distribution over ``space`` has, besides a Gaussian's standard deviation."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return int(np.prod(space.shape or ()))


def _leading(observations: PyTorchObs, space: spaces.Space) -> tuple[int, ...]:
    """The axes before an observation's own."""
    if isinstance(observations, dict):
        assert isinstance(space, spaces.Dict)
        name = next(iter(observations))
        return _leading(observations[name], space[name])
    return tuple(observations.shape[: observations.dim() - len(space.shape or ())])


def _map_observation(function: Callable[[Tensor], Tensor], observations: PyTorchObs) -> PyTorchObs:
    if isinstance(observations, dict):
        return {name: function(part) for name, part in observations.items()}
    return function(observations)
