"""`RecurrentPolicy`: an actor-critic with a features extractor, a recurrent core and heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NoReturn, get_args

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution, make_proba_distribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from plastic_agents.actor_critic.action_masks import checked_masks, masked
from plastic_agents.actor_critic.critic import ActorCriticCores, ActorCriticPair, CriticType, FeedforwardCore
from plastic_agents.actor_critic.features_extractor import FeaturesExtractor
from plastic_agents.actor_critic.heads import LatentHeads, NetArch, PolicyOutput, ReadoutHeads
from plastic_agents.models.checks import check_state
from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.core import RecurrentCore, State, as_core, map_state
from plastic_envs.validation import one_of

NetworkMaker = Callable[[int, int], nn.Module]
HeadType = Literal["readout", "heads"]
# The activity of a relu RNN is unbounded. If a hidden unit exceeds this, the core restarts from its initial state.
MAX_ACTIVITY = 1000.0


class RecurrentPolicy(BasePolicy):
    """An actor-critic with one recurrent core, for the observation and action spaces that Stable-Baselines3 supports.

    Args:
        observation_space, action_space: spaces of the environment.
        lr_schedule: schedule of the learning rate; the optimiser starts with its first value.
        use_sde: must be False.
        network: a description of the network, its plain data (see `NetworkConfig.from_data`), or a function from input
            size and output size to a `RecurrentCore`.
        critic: core of the critic. ``"shared"``: that of the actor. ``"separate"``: another one of the same
            description. ``"feedforward"``: a linear layer without memory.
        outputs: type of the heads. ``"heads"``: the core's ``latent_size`` outputs go through a nonlinearity into a
            perceptron for the action and one for the value (`LatentHeads`). ``"readout"``: the core's outputs are the
            distribution's parameters and the value, so in a plastic network the fast weights reach them too.
        latent_size: number of the core's outputs for ``outputs="heads"``; of each core, if the critic has its own.
        skip_connection: whether the core's outputs for ``outputs="heads"`` are added to a linear function of its
            inputs. A policy then learns as fast as one without memory where it needs none.
        net_arch, activation_fn, ortho_init: hidden layers of the heads and the weights at first, as in
            Stable-Baselines3; see `LatentHeads`.
        predicts_reward: whether to predict the reward of each action for an auxiliary loss; Discrete actions only.
        log_std_init: initial logarithm of the standard deviation of Box actions, which does not depend on the state.
        share_features_extractor: whether actor and critic have the same features extractor; False needs a critic that
            is not shared.
        features_extractor_class, features_extractor_kwargs, normalize_images, optimizer_class, optimizer_kwargs: as in
            Stable-Baselines3's policies. The default extractor is `FeaturesExtractor`.

    Raises:
        ValueError: unknown ``outputs`` or ``critic``, ``use_sde=True``, spaces that do not count from 0, predicted
            rewards for actions that are not Discrete, an encoder with pretraining, or an encoder with a features
            extractor other than `FeaturesExtractor`.
        TypeError: ``network`` is of another type, or makes no `RecurrentCore`.
    """

    _heads_activate_inputs: ClassVar[bool] = True  # False for cores whose outputs are activities of hidden units

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        use_sde: bool = False,
        network: NetworkConfig | NetworkMaker | str | Mapping[str, Any] = NetworkConfig(),
        critic: CriticType = "shared",
        outputs: HeadType = "heads",
        latent_size: int = 64,
        skip_connection: bool = True,
        net_arch: NetArch = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        predicts_reward: bool = False,
        log_std_init: float = 0.0,
        features_extractor_class: type[BaseFeaturesExtractor] = FeaturesExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        share_features_extractor: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde must be False: the recurrent policies have no state-dependent exploration")
        one_of("outputs", outputs, get_args(HeadType))
        one_of("critic", critic, get_args(CriticType))
        if critic == "shared" and not share_features_extractor:
            raise ValueError("share_features_extractor must be True for critic='shared', whose core has one input")
        _check_spaces(observation_space, action_space, predicts_reward)
        if isinstance(network, str | Mapping):
            network = NetworkConfig.from_data(network)
        if isinstance(network, nn.Module) or not (isinstance(network, NetworkConfig) or callable(network)):
            raise TypeError(
                "network must be a NetworkConfig, its plain data, or a function from input size and output size to a "
                f"RecurrentCore, such as its class, got {network!r}"
            )
        _check_encoder(network, features_extractor_class)
        if optimizer_kwargs is None:
            optimizer_kwargs = {"eps": 1e-5} if issubclass(optimizer_class, torch.optim.Adam) else {}
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.features_extractor = self._make_features_extractor(network)
        self.share_features_extractor = share_features_extractor
        if not share_features_extractor:
            self.critic_features_extractor = self._make_features_extractor(network)
        self.action_dist: Distribution = make_proba_distribution(action_space)
        n_parameters = _n_parameters(action_space)
        n_rewards = n_parameters if predicts_reward else 0  # Discrete: a parameter for each action
        separate = critic != "shared"
        self.skips = nn.ModuleList()
        if outputs == "readout":
            actor_size = n_parameters + n_rewards + (not separate)
            self.core = self._make_core(network, critic, actor_size, 1)
            self.heads: ReadoutHeads | LatentHeads = ReadoutHeads(n_parameters, n_rewards, separate)
        else:
            self.core = self._make_core(network, critic, latent_size, latent_size)
            self.heads = LatentHeads(
                n_parameters,
                n_rewards,
                latent_size,
                separate,
                net_arch,
                activation_fn,
                ortho_init,
                self._heads_activate_inputs,
            )
            if skip_connection:
                self.skips.extend(self._make_skip(latent_size, ortho_init) for _ in range(1 + separate))
        if isinstance(self.action_dist, DiagGaussianDistribution):
            self.log_std = nn.Parameter(torch.full((n_parameters,), float(log_std_init)))
        self.optimizer = self._make_optimizer(lr_schedule(1))

    def _make_features_extractor(self, network: NetworkConfig | NetworkMaker) -> BaseFeaturesExtractor:
        arguments = dict(self.features_extractor_kwargs)
        if issubclass(self.features_extractor_class, FeaturesExtractor):
            if not self.normalize_images:
                arguments["normalized_image"] = True
            if isinstance(network, NetworkConfig) and network.encoder.name != "none":
                arguments["encoder"] = network.encoder
        return self.features_extractor_class(self.observation_space, **arguments)

    def _make_core(
        self, network: NetworkConfig | NetworkMaker, critic: CriticType, actor_size: int, critic_size: int
    ) -> RecurrentCore:
        """Make the core; with a critic of its own, its outputs are those of the actor and then those of the critic."""
        make = network.make_core if isinstance(network, NetworkConfig) else network
        features_dim = self.features_extractor.features_dim
        if critic == "shared":
            return as_core("network", make(features_dim, actor_size))
        actor_core = as_core("network", make(features_dim, actor_size))
        critic_core = (FeedforwardCore if critic == "feedforward" else make)(features_dim, critic_size)
        return ActorCriticCores(
            actor_core, as_core("network", critic_core), separate_inputs=not self.share_features_extractor
        )

    def _make_skip(self, latent_size: int, ortho_init: bool) -> nn.Linear:
        skip = nn.Linear(int(self.features_extractor.features_dim), latent_size, bias=False)
        if ortho_init:
            nn.init.orthogonal_(skip.weight)
        return skip

    def _make_optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        make: Any = self.optimizer_class  # the base class takes no learning rate
        optimizer: torch.optim.Optimizer = make(self.parameters(), lr=learning_rate, **self.optimizer_kwargs)
        return optimizer

    def preprocess(self, observations: PyTorchObs) -> Tensor:
        """Return the core's inputs [..., I] for observations: a tensor [..., *shape], or a dict of such tensors."""
        shape = _leading_shape(observations, self.observation_space)
        batch = _map_observation(lambda tensor: tensor.flatten(0, len(shape) - 1), observations)
        features: Tensor = self.extract_features(batch, self.features_extractor)
        if not self.share_features_extractor:
            critic_features: Tensor = self.extract_features(batch, self.critic_features_extractor)
            features = torch.cat((features, critic_features), dim=-1)
        inputs: Tensor = features.unflatten(0, shape)
        return inputs

    def skip(self, y: Tensor, inputs: Tensor) -> Tensor:
        """Return the core's outputs y [..., O] plus a linear function of its inputs [..., I], for `read_outputs`.

        Without a skip connection, that is y itself. A critic with a core of its own has its own skip connection.
        """
        if not self.skips:
            return y
        parts = [inputs] * len(self.skips) if self.share_features_extractor else inputs.chunk(2, dim=-1)
        return y + torch.cat([skip(part) for skip, part in zip(self.skips, parts, strict=True)], dim=-1)

    def read_outputs(self, y: Tensor) -> PolicyOutput:
        """Return the policy's outputs for what `skip` returns, [..., O]; the leading axes become one.

        Raises:
            FloatingPointError: an output of the policy is NaN or infinite.
        """
        output: PolicyOutput = self.heads(y.flatten(0, -2))
        if not all(torch.isfinite(tensor).all() for tensor in output if tensor is not None):
            raise FloatingPointError("the policy's outputs are not finite: has its training diverged?")
        return output

    def distribution(self, parameters: Tensor, action_masks: Tensor | None = None) -> Distribution:
        """Return the distribution over actions with ``parameters`` [N, P], without those that ``action_masks`` exclude.

        Raises:
            FloatingPointError: the standard deviation of Box actions is zero, NaN or infinite.
        """
        if isinstance(self.action_dist, DiagGaussianDistribution):
            std = self.log_std.exp()
            if not (torch.isfinite(std) & (std > 0)).all():
                raise FloatingPointError(f"the standard deviation of the actions is {std.tolist()}")
            return self.action_dist.proba_distribution(parameters, self.log_std)
        if action_masks is not None:
            parameters = masked(parameters, action_masks)
        return self.action_dist.proba_distribution(parameters)

    def initial_state(self, n_envs: int) -> State:
        """Return the state at the start of ``n_envs`` episodes."""
        state: State = self.core.initial_state(n_envs)
        return state

    def core_starts(self, state: State, episode_starts: Tensor) -> Tensor:
        """Return which cores start from their initial state before a step: bool [N].

        A core restarts at the start of an episode, and after an overflow: if the absolute value of a unit in
        ``state.hidden.h`` exceeds ``MAX_ACTIVITY``. A core without such a field restarts at episode starts only.
        """
        restarts = episode_starts
        hidden = getattr(state, "hidden", None)
        for core_hidden in hidden if isinstance(hidden, ActorCriticPair) else [hidden]:
            activity = getattr(core_hidden, "h", None)
            if activity is not None:
                restarts = restarts | (activity.abs() > MAX_ACTIVITY).any(dim=-1)
        return restarts

    def forward(
        self,
        obs: PyTorchObs,
        state: State,
        core_starts: Tensor,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        """Act for one step; return actions, values [N], log-probabilities [N] and the next state.

        The core starts from its initial state where ``core_starts`` (bool [N], from the method of that name) is true.
        It may overwrite ``state``; do not use it again. ``action_masks`` [N, P] are true for valid actions.
        """
        inputs = self.preprocess(obs)
        output, state = self.core.act(inputs, state, core_starts)
        parameters, value, _ = self.read_outputs(self.skip(output.y, inputs))
        distribution = self.distribution(parameters, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, value, distribution.log_prob(actions), state

    def predict_values(self, obs: PyTorchObs, state: State) -> Tensor:
        """Return the values [N] of observations in ``state``, which stays as it is."""
        inputs = self.preprocess(obs)
        no_starts = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        state = self._restarted(state, self.core_starts(state, no_starts))
        return self.read_outputs(self.skip(self.core.step(inputs, state)[0].y, inputs)).value

    def evaluate_actions(
        self,
        obs: PyTorchObs,
        actions: Tensor,
        state: State | None,
        core_starts: Tensor,
        action_masks: Tensor | None = None,
    ) -> tuple[PolicyOutput, Tensor, Tensor, Tensor | None]:
        """Evaluate the actions of recorded sequences, with a gradient.

        Args:
            obs: observations [T, B, ...].
            actions: the actions of the rollout [T B, A], or [T B] for Discrete actions.
            state: the state before the first step; ``None`` if the core starts from its initial state in all sequences.
            core_starts: bool [T, B], true where the core starts from its initial state.
            action_masks: bool [T B, P], true for valid actions; ``None`` if all are valid.

        Returns:
            The policy's outputs, log-probabilities and entropies [T B], and the plasticity rate eta [T, B] (``None``
            without plasticity).

        Raises:
            FloatingPointError: an output of the policy is NaN or infinite.
        """
        inputs = self.preprocess(obs)
        output, _ = self.core.unroll(inputs, state, core_starts)
        policy_output = self.read_outputs(self.skip(output.y, inputs))
        distribution = self.distribution(policy_output.parameters, action_masks)
        log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
        assert entropy is not None  # only the distributions of use_sde have no entropy
        return policy_output, log_prob, entropy, output.eta

    @torch.no_grad()
    def predict(  # type: ignore[override]  # the state is a State
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, State]:
        """Return actions for one observation or a batch, and the state for the next call; ``state`` stays as it is.

        Args:
            observation: observations of the environment, [...] or [N, ...].
            state: the state that the last call returned; ``None`` starts episodes.
            episode_start: bool [N], true where an episode starts; the state is reset there.
            deterministic: whether to return the distribution's mode instead of a sample.
            action_masks: bool [P] or [N, P], true for valid actions; see `plastic_agents.actor_critic.action_masks`.

        Raises:
            ValueError: ``state`` is not one of this policy's for N episodes, ``episode_start`` has another shape, or
                ``action_masks`` have another shape, exclude all actions, or the actions are neither Discrete
                nor MultiDiscrete.
            TypeError: ``observation`` is a tuple, such as Gymnasium's ``reset`` returns.
            FloatingPointError: an output of the policy is NaN or infinite.
        """
        if isinstance(observation, tuple):
            raise TypeError(f"observation must be an array or a dict, without the info of reset, got {observation!r}")
        self.set_training_mode(False)
        obs, vectorised = self.obs_to_tensor(observation)
        inputs = self.preprocess(obs)
        if state is None:
            state = self.initial_state(len(inputs))
        else:
            flags = np.asarray(False if episode_start is None else episode_start, dtype=bool)
            if flags.shape not in ((), (1,), (len(inputs),)):
                raise ValueError(f"episode_start must have shape ({len(inputs)},), got {flags.shape}")
            check_state(state, self.initial_state(0), len(inputs))
            starts = torch.tensor(np.broadcast_to(flags, len(inputs)), device=inputs.device)
            state = self._restarted(state, self.core_starts(state, starts))
        output, state = self.core.step(inputs, state)
        parameters = self.read_outputs(self.skip(output.y, inputs)).parameters
        masks = None
        if action_masks is not None:
            checked = checked_masks(action_masks, self.action_space, len(inputs))
            masks = torch.as_tensor(checked, device=parameters.device)
        actions = self.to_actions(self.distribution(parameters, masks).get_actions(deterministic=deterministic))
        return (actions if vectorised else actions.squeeze(axis=0)), state

    def _restarted(self, state: State, starts: Tensor) -> State:
        """Return ``state`` with the initial state where ``starts`` [N] is true."""
        if not starts.any():
            return state
        if starts.all():
            return self.initial_state(len(starts))
        lanes = starts.nonzero().flatten()
        initial = self.initial_state(len(lanes))
        restarted: State = map_state(lambda old, new: old.index_copy(0, lanes, new), state, initial)
        return restarted

    def to_actions(self, actions: Tensor) -> np.ndarray:
        """Convert a distribution's actions [N, ...] to the environment's; Box actions are clipped to their bounds."""
        array: np.ndarray = actions.cpu().numpy().reshape((-1, *(self.action_space.shape or ())))
        if isinstance(self.action_space, spaces.Box):
            return array.clip(self.action_space.low, self.action_space.high)
        return array

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        raise NotImplementedError("a recurrent policy acts through predict or forward, which take a state")

    def save(self, path: str) -> None:
        """Raise NotImplementedError: a model's file also has the settings that a policy needs."""
        raise NotImplementedError("policies are saved with their models, by model.save")

    @classmethod
    def load(cls, path: str, device: torch.device | str = "auto") -> NoReturn:
        """Raise NotImplementedError: Stable-Baselines3's files are pickles, which can run code."""
        raise NotImplementedError("policies are loaded with their models, such as by RecurrentPPO.load")


def _check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], predicts_reward: bool) -> None:
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        members = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
        if any(np.any(getattr(member, "start", 0)) for member in members):
            raise ValueError(f"{name} must count from 0, as Stable-Baselines3 does, got {space}")
    if predicts_reward and not isinstance(action_space, spaces.Discrete):
        raise ValueError(f"rewards can be predicted for Discrete actions only, got {action_space}")


def _check_encoder(network: NetworkConfig | NetworkMaker, extractor_class: type[BaseFeaturesExtractor]) -> None:
    if not isinstance(network, NetworkConfig) or network.encoder.name == "none":
        return
    if network.encoder.pretraining:
        raise ValueError(
            f"encoder.pretraining must be 0 in a policy, got {network.encoder.pretraining}: see ReinforcementLearner"
        )
    if not issubclass(extractor_class, FeaturesExtractor):
        raise ValueError(
            f"features_extractor_class must be a FeaturesExtractor for a network with the encoder "
            f"{network.encoder.name!r}, got {extractor_class.__name__}"
        )


def _n_parameters(space: spaces.Space[Any]) -> int:
    """Return the number of parameters of a distribution over ``space``, without a Gaussian's standard deviation."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return int(np.prod(space.shape or ()))


def _leading_shape(observations: PyTorchObs, space: spaces.Space[Any]) -> tuple[int, ...]:
    """Return the axes before those of a single observation."""
    if isinstance(observations, dict):
        assert isinstance(space, spaces.Dict)
        name = next(iter(observations))
        return _leading_shape(observations[name], space[name])
    return tuple(observations.shape[: observations.dim() - len(space.shape or ())])


def _map_observation(function: Callable[[Tensor], Tensor], observations: PyTorchObs) -> PyTorchObs:
    if isinstance(observations, dict):
        return {name: function(tensor) for name, tensor in observations.items()}
    return function(observations)
