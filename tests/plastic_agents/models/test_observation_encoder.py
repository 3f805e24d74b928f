"""ObservationEncoder: rescaling by bounds, images under any key, and one rescaling for all agents."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plastic_agents import NetworkConfig, SupervisedAgent
from plastic_agents.actor_critic.policy import RecurrentPolicy
from plastic_agents.models.image_encoders import EncoderConfig
from plastic_agents.models.observation_encoder import ObservationEncoder

from plastic_envs import make_task

CONV = EncoderConfig("conv-4", channels=4)
IMAGE = spaces.Box(0, 255, (1, 16, 16), np.uint8)
VECTOR = spaces.Box(np.array([-2, 0, 5, -1e6, -np.inf]), np.array([6, 1000, 5, 1e6, np.inf]), dtype=np.float32)


def recorded_inputs(encoder):
    """Return a list to which the inputs of the encoder's networks are appended."""
    inputs = []
    for image_encoder in encoder.image_encoders:
        image_encoder.network.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    return inputs


def sample(space, *leading, seed=0):
    """Return random observations [*leading, ...] of a space, as tensors."""
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Dict):
        return {name: sample(value, *leading, seed=i) for i, (name, value) in enumerate(space.items())}
    if space.dtype == np.uint8:
        return torch.as_tensor(rng.integers(256, size=(*leading, *space.shape), dtype=np.uint8))
    return torch.as_tensor(rng.normal(size=(*leading, *space.shape)), dtype=torch.float32)


def dict_space(**members):
    return spaces.Dict(list(members.items()))  # a list keeps its order


@pytest.mark.parametrize(
    "space",
    [
        dict_space(image=IMAGE, label=VECTOR),
        dict_space(cue=VECTOR, image=IMAGE),
        dict_space(picture=IMAGE, cue=VECTOR),
        spaces.Dict([("z.9", IMAGE), ("a.b", VECTOR)]),
    ],
)
def test_an_image_is_encoded_under_any_key_and_features_have_the_spaces_order(space):
    encoder = ObservationEncoder(space, CONV).eval()
    inputs = recorded_inputs(encoder)
    observation = sample(space, 3, 2)
    features = encoder(observation)
    assert features.shape == (3, 2, encoder.out_features)
    assert encoder.out_features == 4 + 5
    image_key = next(name for name in space if space[name] is IMAGE)
    vector_key = next(name for name in space if space[name] is VECTOR)
    torch.testing.assert_close(inputs[0], observation[image_key].flatten(0, 1) / 127.5 - 1)
    (image_encoder,) = encoder.image_encoders
    pieces = {
        image_key: image_encoder(observation[image_key] / 127.5 - 1),
        vector_key: ObservationEncoder(VECTOR)(observation[vector_key]),
    }
    torch.testing.assert_close(features, torch.cat([pieces[name] for name in space], dim=-1))
    # The order of the keys of an observation does not matter.
    assert torch.equal(encoder(dict(reversed(observation.items()))), features)


def test_each_image_has_its_own_encoder():
    space = dict_space(left=IMAGE, bit=spaces.MultiBinary(1), right=spaces.Box(0, 255, (32, 16, 3), np.uint8))
    encoder = ObservationEncoder(space, CONV)
    inputs = recorded_inputs(encoder)
    left, right = encoder.image_encoders
    assert left.network is not right.network
    observation = {**sample(space, 5), "bit": torch.tensor([[0], [1], [0], [1], [1]], dtype=torch.int8)}
    features = encoder(observation)
    assert features.shape == (5, 4 + 1 + 8)
    assert features[:, 4].tolist() == [0, 1, 0, 1, 1]
    assert [list(images.shape) for images in inputs] == [[5, 1, 16, 16], [5, 3, 32, 16]]
    torch.testing.assert_close(inputs[1], observation["right"].permute(0, 3, 1, 2) / 127.5 - 1)


@pytest.mark.parametrize(
    ("shape", "channels_first"),
    [((1, 16, 16), True), ((3, 16, 20), True), ((16, 20, 3), False), ((20, 32, 16), True), ((16, 20, 1), False)],
)
def test_channels_are_the_first_axis_or_a_short_last_axis(shape, channels_first):
    encoder = ObservationEncoder(spaces.Box(0, 255, shape, np.uint8), CONV)
    (image_encoder,) = encoder.image_encoders
    assert image_encoder.image_shape == (shape if channels_first else (shape[2], *shape[:2]))
    assert encoder(torch.zeros(2, *shape, dtype=torch.uint8)).shape == (2, encoder.out_features)


def test_images_without_an_encoder_are_flattened_to_minus_1_to_1():
    encoder = ObservationEncoder(dict_space(cue=VECTOR, image=IMAGE))
    observation = sample(encoder.observation_space, 2)
    features = encoder(observation)
    assert encoder.out_features == 5 + 256
    assert not list(encoder.parameters())
    torch.testing.assert_close(features[:, 5:], observation["image"].flatten(1) / 127.5 - 1)


def test_only_entries_with_moderate_bounds_are_rescaled():
    encoder = ObservationEncoder(VECTOR)
    x = torch.tensor([[6, 0, 0.5, 0.02, 7.5], [-2, 500, 0.5, -0.03, -0.25]])
    assert encoder(x).tolist() == [[1, -1, 0.5, x[0, 3], 7.5], [-1, 0, 0.5, x[1, 3], -0.25]]
    assert encoder(x.double()).dtype is torch.float32
    assert encoder.double()(x).dtype is torch.float64


class WithSpace:
    """A task of the package with another observation space."""

    def __init__(self, space):
        self.task, self.observation_space = make_task("PlasticRNN/CueReward-v0"), space

    def __getattr__(self, name):
        return getattr(self.task, name)


@pytest.mark.parametrize(
    "space", [VECTOR, dict_space(a=VECTOR, image=spaces.Box(0, 255, (1, 16, 16), np.uint8), b=VECTOR)]
)
def test_supervised_agents_and_policies_preprocess_equally(space):
    config = dataclasses.replace(NetworkConfig("none", hidden_size=4), encoder=EncoderConfig())
    if isinstance(space, spaces.Dict):
        config = dataclasses.replace(config, encoder=CONV)
    agents = []
    for make in (
        lambda: SupervisedAgent(WithSpace(space), config),
        lambda: RecurrentPolicy(space, spaces.Discrete(2), lambda _: 1e-3, network=config),
    ):
        torch.manual_seed(0)
        agents.append(make().eval())
    observation = sample(space, 3, 2)
    torch.testing.assert_close(*(agent.preprocess(observation) for agent in agents))


@pytest.mark.parametrize(
    ("space", "config", "error", "message"),
    [
        (VECTOR, CONV, ValueError, "encoder must be 'none' for observations without images, got 'conv-4'"),
        (spaces.Box(0, 255, (1, 15, 16), np.uint8), CONV, ValueError, "images must have 16 rows and columns"),
        (spaces.Discrete(3), EncoderConfig(), TypeError, r"must be a Box, .* got Discrete\(3\)"),
        (spaces.Dict({"a": spaces.Dict({"b": VECTOR})}), EncoderConfig(), TypeError, "must be a Box, .* got Dict"),
    ],
)
def test_spaces_that_cannot_be_encoded_are_refused(space, config, error, message):
    with pytest.raises(error, match=message):
        ObservationEncoder(space, config)


def test_bad_observations_are_named():
    with pytest.raises(ValueError, match=r"observation must have shape \[..., 5\], got \[2, 4\]"):
        ObservationEncoder(VECTOR)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"observation must have the keys \['a', 'b'\], got \['a'\]"):
        ObservationEncoder(dict_space(a=VECTOR, b=VECTOR))({"a": torch.zeros(2, 5)})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_size": True}, TypeError, "hidden_size must be a whole number"),
        ({"hidden_size": 0}, ValueError, "hidden_size must be at least 1"),
        ({"cell": "elman"}, ValueError, "cell must be one of rnn, .*lstm.*, got 'elman'"),
        ({"rule": "backprop"}, ValueError, "rule must be one of none, .*hebbian.*, got 'backprop'"),
    ],
)
def test_bad_network_configs_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        NetworkConfig(**arguments)


def test_numpy_numbers_in_configs_become_python_numbers():
    encoder = EncoderConfig("conv-4", np.int64(4), np.int32(2), np.bool_(True))
    assert [type(value) for value in dataclasses.astuple(encoder)] == [str, int, int, bool]
    assert type(NetworkConfig(hidden_size=np.int64(4)).hidden_size) is int


def test_encoder_does_not_import_stable_baselines3():
    code = "import sys, plastic_agents.models.config; sys.exit('stable_baselines3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
