"""FeaturesExtractor: the policy's observation encoder, with Stable-Baselines3's preparation of observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plastic_agents import NetworkConfig, RecurrentA2C, RecurrentPPO
from plastic_agents.actor_critic.features_extractor import FeaturesExtractor
from plastic_agents.models.image_encoders import EncoderConfig
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecNormalize

from tests.plastic_agents.environments import Uneven, uneven, vectorised

SMALL = {"network": NetworkConfig("none", hidden_size=8)}
FLOAT_IMAGE = spaces.Box(0, 1, (3, 40, 40), np.float32)


def environments(observation):
    return vectorised(lambda: Uneven(observation), 1)


@pytest.mark.parametrize("bound", [1001, 1e6, 1e8, 1e30, np.inf])
def test_wide_bounds_do_not_rescale_observations(bound):
    values = torch.tensor([[0.01, 0.02, -0.03, 0.5]])
    for low in (-bound, 0):
        features = FeaturesExtractor(spaces.Box(low, bound, (4,), np.float32))
        assert torch.equal(features(values), values)
        assert not features.rescales


@pytest.mark.parametrize(
    ("low", "high", "value"), [(-1000, 1000, 0.02), (-1000, 1000, 1e-6), (-3, 1, -0.99999), (0, 1000, 500.001)]
)
def test_moderate_bounds_keep_the_digits_of_small_values(low, high, value):
    value = np.float32(value)
    expected = (float(value) - (low + high) / 2) / ((high - low) / 2)
    feature = FeaturesExtractor(spaces.Box(low, high, (1,), np.float32))(torch.tensor([[value]])).item()
    assert feature == pytest.approx(expected, rel=1e-6)


def test_bounds_are_rescaled_to_minus_1_and_1():
    space = spaces.Box(np.array([-2, 0, 5, -4]), np.array([6, 1000, 5, 2000]), dtype=np.float32)
    features = FeaturesExtractor(space)
    assert features(torch.as_tensor(space.low)[None]).tolist() == [[-1, -1, 5, -4]]
    assert features(torch.as_tensor(space.high)[None]).tolist() == [[1, 1, 5, 2000]]
    assert features.rescales


def test_float_images_go_through_the_image_encoder():
    policy = {**SMALL, "normalize_images": False}
    model = RecurrentPPO("CnnPolicy", environments(FLOAT_IMAGE), n_steps=6, policy_kwargs=policy, seed=0)
    (encoder,) = model.policy.features_extractor.nature_cnns
    assert isinstance(encoder, NatureCNN)
    assert model.policy.core.input_size == 256
    image = torch.rand(1, *FLOAT_IMAGE.shape)
    torch.testing.assert_close(model.policy.preprocess(image), encoder(image))
    model.learn(12)


def test_float_images_reach_an_encoder_in_minus_1_to_1():
    policy = {"network": NetworkConfig("none", hidden_size=8, encoder=EncoderConfig("conv-4", channels=4))}
    for normalize_images in (True, False):
        arguments = {**policy, "normalize_images": normalize_images}
        model = RecurrentPPO("RecurrentPolicy", environments(FLOAT_IMAGE), n_steps=6, policy_kwargs=arguments)
        image = torch.rand(1, *FLOAT_IMAGE.shape)
        model.policy.set_training_mode(False)  # batch normalisation cannot train on one image
        (encoder,) = model.policy.features_extractor.observation_encoder.image_encoders
        inputs = []
        encoder.network.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
        assert model.policy.preprocess(image).shape == (1, encoder.out_features)
        torch.testing.assert_close(inputs[0], image * 2 - 1)


@pytest.mark.parametrize("keys", [("image", "label"), ("z", "a"), ("picture", "cue")])
def test_uint8_images_reach_an_encoder_under_any_key(keys):
    image_key, vector_key = keys
    space = spaces.Dict(
        {image_key: spaces.Box(0, 255, (16, 20, 3), np.uint8), vector_key: spaces.Box(-3, 1, (2,), np.float32)}
    )
    network = NetworkConfig("none", hidden_size=8, encoder=EncoderConfig("conv-4", channels=4))
    model = RecurrentPPO("MultiInputPolicy", environments(space), n_steps=6, policy_kwargs={"network": network})
    model.policy.set_training_mode(False)  # batch normalisation cannot train on one image
    (encoder,) = model.policy.features_extractor.observation_encoder.image_encoders
    inputs = []
    encoder.network.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    observation, _ = model.policy.obs_to_tensor(model.get_env().reset())
    features = model.policy.preprocess(observation)
    assert model.policy.core.input_size == features.shape[1] == encoder.out_features + 2
    # Stable-Baselines3 has transposed the image.
    torch.testing.assert_close(inputs[0], observation[image_key] / 127.5 - 1)
    vector = features[:, -2:] if list(space) == [image_key, vector_key] else features[:, :2]
    torch.testing.assert_close(vector, (observation[vector_key] + 1) / 2)
    model.learn(12)


def test_an_encoder_needs_the_default_features_extractor():
    policy = {
        "network": NetworkConfig("none", encoder=EncoderConfig("conv-4")),
        "features_extractor_class": FlattenExtractor,
    }
    with pytest.raises(
        ValueError, match=r"features_extractor_class must be a FeaturesExtractor .* got FlattenExtractor"
    ):
        RecurrentPPO("RecurrentPolicy", uneven(observation="image"), policy_kwargs=policy)


@pytest.mark.parametrize("observation", ["box", "unbounded", "discrete", "multi-binary"])
@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
def test_cnn_policy_refuses_other_observations(algorithm, observation):
    with pytest.raises(ValueError, match=r"'CnnPolicy' needs images, .* got .*: use 'MlpPolicy'"):
        algorithm("CnnPolicy", uneven(observation=observation), policy_kwargs=SMALL)


def test_float_images_need_normalize_images_false():
    with pytest.raises(ValueError, match="normalize_images=False"):
        RecurrentPPO("CnnPolicy", environments(FLOAT_IMAGE), policy_kwargs=SMALL)


def test_cnn_policy_accepts_images():
    model = RecurrentPPO("CnnPolicy", uneven(observation="image"), n_steps=6, policy_kwargs=SMALL)
    assert model.policy.core.input_size == 256


def test_normalised_observations_after_construction_are_refused():
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL)
    before = model.get_env()
    with pytest.raises(ValueError, match="env must not be a VecNormalize with norm_obs=True"):
        model.set_env(VecNormalize(uneven()))
    assert model.get_env() is before
    for env in (uneven(), VecNormalize(uneven(), norm_obs=False)):
        model.set_env(env)
        assert model.get_env() is env
        model.learn(24)


def test_a_loaded_policy_rescales_as_before(tmp_path):
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="env must not be a VecNormalize with norm_obs=True"):
        RecurrentPPO.load(tmp_path / "model", env=VecNormalize(uneven()))
    loaded = RecurrentPPO.load(tmp_path / "model", env=VecNormalize(uneven(), norm_obs=False), policy_kwargs=None)
    assert loaded.policy.features_extractor.rescales
    kwargs = {**SMALL, "features_extractor_kwargs": {"rescale": False}}
    RecurrentPPO.load(tmp_path / "model", env=VecNormalize(uneven()), policy_kwargs=kwargs).learn(24)
    normalised = RecurrentPPO("RecurrentPolicy", VecNormalize(uneven()), n_steps=6, policy_kwargs=SMALL)
    normalised.save(tmp_path / "normalised")
    again = RecurrentPPO.load(tmp_path / "normalised", env=VecNormalize(uneven()))
    assert not again.policy.features_extractor.rescales


@pytest.mark.parametrize("extractor", [{"rescale": False}, {}])
def test_normalised_observations_are_allowed_without_rescaling(extractor):
    observation = "box" if extractor else "unbounded"
    policy = {**SMALL, "features_extractor_kwargs": extractor}
    model = RecurrentPPO("RecurrentPolicy", uneven(observation=observation), n_steps=6, policy_kwargs=policy)
    env = VecNormalize(uneven(observation=observation))
    model.set_env(env)
    assert model.get_vec_normalize_env() is env
    model.learn(24)


def test_a_loaded_model_preprocesses_images_like_the_saved_model(tmp_path):
    policy = {**SMALL, "normalize_images": False}
    model = RecurrentPPO("CnnPolicy", environments(FLOAT_IMAGE), n_steps=6, policy_kwargs=policy, seed=0)
    model.save(tmp_path / "model")
    image = torch.rand(1, *FLOAT_IMAGE.shape)
    torch.testing.assert_close(
        RecurrentPPO.load(tmp_path / "model").policy.preprocess(image), model.policy.preprocess(image)
    )


@pytest.mark.parametrize(("bound", "rescales"), [(np.inf, False), (2, True)])
def test_normalised_vectors_are_allowed_beside_images(bound, rescales):
    """VecNormalize can leave images out, so only the bounds of vectors forbid it."""
    space = spaces.Dict(
        {"image": spaces.Box(0, 255, (3, 40, 40), np.uint8), "v": spaces.Box(-bound, bound, (2,), np.float32)}
    )
    for encoder in (EncoderConfig(), EncoderConfig("conv-4", channels=4)):
        assert FeaturesExtractor(space, encoder=encoder).rescales == rescales
        assert not FeaturesExtractor(space, encoder=encoder, rescale=False).rescales
