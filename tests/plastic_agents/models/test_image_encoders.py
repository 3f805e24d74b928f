"""Image encoders, networks with an encoder, pretraining, and learning from images."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plastic_agents import (
    INTERVENTIONS,
    NetworkConfig,
    Plasticity,
    SupervisedAgent,
    SupervisedConfig,
    SupervisedLearner,
    probe,
)
from plastic_agents.actor_critic.a2c import RecurrentA2C
from plastic_agents.actor_critic.agent import PolicyAgent
from plastic_agents.actor_critic.ppo import RecurrentPPO
from plastic_agents.actor_critic.vec_env import SB3VecEnv
from plastic_agents.models.feature_cache import FeatureCache
from plastic_agents.models.image_encoders import Conv4, DropBlock, EncoderConfig, ResNet12
from plastic_agents.models.observation_encoder import ImageEncoder
from plastic_agents.models.torch_rnn import TorchRNN
from plastic_agents.plain_data import from_plain, to_plain
from plastic_agents.training.pretraining import pretrain
from plastic_agents.training.reinforcement import ReinforcementLearner
from plastic_agents.training.reinforcement_config import ReinforcementConfig
from torch.nn import functional

from plastic_envs import make_task
from plastic_envs.images import ArraySource
from plastic_envs.tasks import FewShotClassification
from plastic_envs.vector_env import TaskVectorEnv

TASK = "PlasticRNN/FewShotClassification-v0"
SMALL = {"n_way": 2, "image_size": 16}
CONV = EncoderConfig("conv-4", channels=4)


def config(rule="gradient", encoder=CONV, **arguments):
    return NetworkConfig(rule, hidden_size=8, encoder=encoder, **arguments)


# Encoders


def test_conv_4_equals_its_definition_layer_by_layer():
    encoder = Conv4((3, 20, 33), channels=5)
    images = torch.randn(6, 3, 20, 33)
    x = images
    for convolution, norm in ((block[0], block[1]) for block in encoder.blocks):
        x = functional.conv2d(x, convolution.weight, convolution.bias, padding=1)
        mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(variance + norm.eps)
        x = functional.max_pool2d(x.clamp_min(0), 2)
    torch.testing.assert_close(encoder(images), x.flatten(1), rtol=1e-4, atol=1e-4)
    assert encoder.out_features == x.flatten(1).shape[1] == 5 * 1 * 2


def test_encoders_have_the_published_sizes():
    assert Conv4((1, 28, 28)).out_features == 64
    assert Conv4((3, 84, 84)).out_features == 1600
    assert sum(parameter.numel() for parameter in Conv4((3, 84, 84)).parameters()) == 113_088
    resnet = ResNet12((3, 32, 32))
    widths = [resnet.blocks[index].layers[0].weight.shape[0] for index in range(4)]
    assert widths == [64, 160, 320, 640]
    assert resnet.out_features == 640
    # Three convolutions and a shortcut in each block, with scale and shift after each.
    expected = sum(
        9 * ins * outs + 2 * 9 * outs * outs + ins * outs + 8 * outs
        for ins, outs in zip((3, 64, 160, 320), widths, strict=True)
    )
    assert sum(parameter.numel() for parameter in resnet.parameters()) == expected
    resnet.eval()
    assert resnet(torch.randn(2, 3, 32, 32)).shape == (2, 640)


@settings(max_examples=25)
@given(side=st.integers(1, 6), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 999))
def test_dropblock_drops_squares_and_scales_the_rest(side, height, width, seed):
    torch.manual_seed(seed)
    drop = DropBlock(0.3, side, growth=1)
    x = torch.ones(4, 3, height, width)
    dropped = drop(x)
    kept = dropped != 0
    if kept.any():
        torch.testing.assert_close(dropped.mean(), torch.tensor(1.0))
        assert dropped[kept].unique().numel() == 1
    size = min(side, height, width)
    for is_dropped in ~kept.reshape(12, height, width):
        covered = torch.zeros(height, width, dtype=torch.bool)
        for row in range(height - size + 1):
            for column in range(width - size + 1):
                square = is_dropped[row : row + size, column : column + size]
                if square.all():
                    covered[row : row + size, column : column + size] = True
        assert torch.equal(covered, is_dropped), "dropped entries form whole squares"
    assert torch.equal(drop.eval()(x), x)


def test_dropped_fraction_grows_to_the_drop_rate():
    torch.manual_seed(0)
    drop = DropBlock(0.1, 3, growth=10)
    fractions = [(drop(torch.ones(100, 16, 10, 10)) == 0).float().mean().item() for _ in range(20)]
    assert fractions[0] < 0.02
    assert 0.07 < np.mean(fractions[10:]) < 0.1
    assert all(abs(fraction - 0.01 * step) < 0.01 for step, fraction in enumerate(fractions[:10], start=1))
    again = DropBlock(0.1, 3, growth=10)
    again.load_state_dict(drop.state_dict())
    assert int(again.batches) == 20
    assert 0.08 < (DropBlock(0.1, 1, growth=1)(torch.ones(100, 16, 10, 10)) == 0).float().mean() < 0.12


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "vgg"}, "name must be one of none, conv-4, resnet-12, got 'vgg'"),
        ({"name": "conv-4", "channels": 0}, "channels must be at least 1, got 0"),
        ({"name": "conv-4", "pretraining": -1}, "pretraining must be at least 0, got -1"),
        ({"frozen": True}, "pretraining and frozen need an encoder"),
        ({"pretraining": 5}, "pretraining and frozen need an encoder"),
    ],
)
def test_bad_encoder_configs_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        EncoderConfig(**arguments)


def test_encoders_need_images_that_are_large_enough():
    with pytest.raises(ValueError, match="must have 16 rows and columns, or more"):
        SupervisedAgent(make_task(TASK, image_size=12), config())
    with pytest.raises(ValueError, match="encoder must be 'none' for observations without images, got 'conv-4'"):
        SupervisedAgent(make_task("PlasticRNN/CueReward-v0"), config())


# Networks with an encoder


@pytest.mark.parametrize("name", ["none", "conv-4", "resnet-12"])
@pytest.mark.parametrize("rule", ["none", "hebbian", "gradient"])
def test_unroll_equals_repeated_steps(rule, name):
    task = make_task(TASK, **SMALL)
    model = SupervisedAgent(task, config(rule, EncoderConfig(name, channels=4))).eval()
    episode = task.sample(np.random.default_rng(0), 3)
    observations = task.observe(episode.observation.swapaxes(0, 1))
    state = model.core.initial_state(3)
    y = model(episode).y
    for step in range(task.episode_length):
        x = model.preprocess({name: torch.as_tensor(array[step]) for name, array in observations.items()})
        output, state = model.core.step(x, state)
        torch.testing.assert_close(output.y, y[step], rtol=1e-4, atol=1e-5)


def test_core_inputs_are_features_labels_and_flags():
    task = make_task(TASK, **SMALL)
    agent = SupervisedAgent(task, config("none")).eval()
    observed = task.observe(task.sample(np.random.default_rng(0), 3).observation)
    observation = {name: torch.as_tensor(value) for name, value in observed.items()}
    inputs = agent.preprocess(observation)
    assert inputs.shape == (3, 4, 4 + 2 + 1)
    (encoder,) = agent.observation_encoder.image_encoders
    images = torch.as_tensor(observed["image"][1, 2:3]).float() / 127.5 - 1
    # In evaluation mode, before any training, standardisation does not change features.
    torch.testing.assert_close(inputs[1, 2, :4], encoder.network(images)[0], rtol=1e-4, atol=1e-4)
    features = agent.train().preprocess(observation)[..., :4].flatten(0, 1)
    torch.testing.assert_close(features.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
    np.testing.assert_array_equal(inputs[..., 4:6].detach(), observed["label"] * 2 - 1)
    np.testing.assert_array_equal(inputs[..., 6].detach(), observed["query"][..., 0] * 2 - 1)


@pytest.mark.parametrize("rule", ["none", "hebbian", "gradient"])
def test_gradient_reaches_the_encoder(rule):
    """The gradient through the fast forms equals a finite difference of the loss."""
    task = make_task(TASK, **SMALL)
    model = SupervisedAgent(task, config(rule)).double().eval()
    episode = task.sample(np.random.default_rng(0), 4)
    weight = model.observation_encoder.image_encoders[0].network.blocks[0][0].weight
    model.loss(model(episode), episode).backward()
    direction = torch.randn_like(weight)
    losses = []
    for step_size in (1e-5, -1e-5):
        with torch.no_grad():
            weight += step_size * direction
            losses.append(model.loss(model(episode), episode).item())
            weight -= step_size * direction
    expected = (losses[0] - losses[1]) / 2e-5
    assert abs((weight.grad * direction).sum().item() - expected) < 1e-4 * max(1, abs(expected))
    assert expected != 0


@settings(max_examples=20)
@given(
    picks=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=4), rows=st.integers(0, 7)
)
def test_cached_features_equal_those_of_the_encoder(picks, rows):
    """They are equal bit by bit, for any earlier images and any size of the cache."""
    torch.manual_seed(0)
    encoder, images = Conv4((1, 16, 16), channels=4).eval(), torch.rand(6, 1, 16, 16)
    cache = FeatureCache(limit=rows * 16)
    with torch.no_grad():
        expected = encoder(images)
    for pick in picks:
        assert torch.equal(cache.encode(encoder, images[pick]), expected[pick])


def test_cached_features_do_not_depend_on_earlier_images():
    # The cache of a resumed run is empty. In one thread, ResNet-12 rounds differently for fewer images.
    torch.manual_seed(0)
    encoder, images = ResNet12((1, 16, 16)).eval(), torch.rand(30, 1, 16, 16)
    cache = FeatureCache()
    cache.encode(encoder, images[:28])
    assert torch.equal(cache.encode(encoder, images[10:]), FeatureCache().encode(encoder, images[10:]))


def image_encoder(frozen=True):
    return ImageEncoder((1, 16, 16), dataclasses.replace(CONV, frozen=frozen))


def test_cached_features_of_autocast_are_not_used_outside():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    encoder, cache = Conv4((3, 16, 16), 4).eval(), FeatureCache()
    wanted = FeatureCache().encode(encoder, images)
    with torch.autocast("cpu", torch.bfloat16):
        cache.encode(encoder, images)
    assert torch.equal(cache.encode(encoder, images), wanted)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_of_an_encoder_do_not_carry_the_cache(copied):
    encoder = image_encoder().eval()
    size, images = len(pickle.dumps(encoder)), torch.rand(100, 2, 1, 16, 16)
    expected = encoder(images)
    assert len(pickle.dumps(encoder)) == size
    assert torch.equal(copied(encoder)(images), expected)


@pytest.mark.parametrize("frozen", [False, True])
def test_encoder_supports_bfloat16_and_inference_mode(frozen):
    encoder = image_encoder(frozen).eval()
    assert encoder.bfloat16()(torch.rand(3, 2, 1, 16, 16).bfloat16()).dtype is torch.bfloat16
    with torch.inference_mode():
        encoder = image_encoder(frozen).eval()
        images = torch.rand(3, 2, 1, 16, 16)
        before = encoder(images)
        encoder.network.blocks[0][0].weight.mul_(2)
        assert not torch.allclose(encoder(images), before)


def test_a_frozen_encoder_uses_its_cache_until_its_parameters_change():
    encoder = image_encoder().train()
    runs = []
    encoder.network.register_forward_hook(lambda *_: runs.append(1))
    images = torch.rand(3, 2, 1, 16, 16)
    encoder(images)
    encoder(images.flip(0))
    assert len(runs) == 1
    # Changed parameters give other features.
    before = encoder.eval()(images)
    encoder.load_state_dict(image_encoder(frozen=False).state_dict())
    after = encoder(images)
    assert len(runs) == 2
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after.flatten(0, 1), encoder.network(images.flatten(0, 1)))
    with torch.no_grad():
        encoder.network.blocks[0][0].weight.mul_(2)
    assert not torch.allclose(encoder(images), after)
    # Images that require a gradient bypass the cache.
    images.requires_grad_()
    encoder(images).sum().backward()
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize("frozen", [True, False])
def test_an_agent_uses_the_cache_of_its_frozen_encoder(frozen):
    task = make_task(TASK, **SMALL)
    agent = SupervisedAgent(task, config(encoder=dataclasses.replace(CONV, frozen=frozen))).train()
    runs = []
    agent.observation_encoder.image_encoders[0].network.register_forward_hook(lambda *_: runs.append(1))
    episode = task.sample(np.random.default_rng(0), 2)
    agent(episode)
    agent(episode)
    assert len(runs) == (1 if frozen else 2)


def test_every_intervention_can_be_probed():
    task = make_task(TASK, **SMALL)
    report = probe(SupervisedAgent(task, config("hebbian")), episodes=20)
    assert list(report) == list(INTERVENTIONS)
    assert report.metric_name == "accuracy"
    assert report.oracle.mean == 1
    assert report.memoryless.mean == 0.5


def test_network_config_round_trip_through_plain_data():
    network = config("hebbian", EncoderConfig("conv-4", channels=7, pretraining=3, frozen=True))
    assert from_plain(to_plain(network, "network"), "network", NetworkConfig) == network


# Learning


def spots(classes=8, images=10):
    """Return a source whose classes differ in the position of a spot."""
    rng = np.random.default_rng(0)
    stacks = {}
    for label in range(classes):
        stack = rng.integers(60, size=(images, 1, 16, 16), dtype=np.uint8)
        row, column = divmod(label, 4)
        stack[:, 0, 8 * row : 8 * row + 6, 4 * column : 4 * column + 4] += 190
        stacks[f"spot {label}"] = stack
    return ArraySource("spots", {"train": stacks})


def test_pretraining_learns_to_classify_and_depends_on_the_seed_only():
    task = FewShotClassification(source=spots(), image_size=16, n_way=2)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        encoder = Conv4((1, 16, 16), channels=8).eval()
        before = [parameter.clone() for parameter in encoder.parameters()]
        accuracy = pretrain(encoder, task, 70, seed=seed)
        assert accuracy > 0.8, "by chance it would be 0.125"
        assert not encoder.training
        assert all(parameter.requires_grad for parameter in encoder.parameters())
        assert all((a != b).any() for a, b in zip(before, encoder.parameters(), strict=True))
        results.append((accuracy, encoder.state_dict()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])
    assert not torch.equal(results[0][1]["blocks.0.0.weight"], results[2][1]["blocks.0.0.weight"])


def test_interrupted_pretraining_does_not_change_the_encoder():
    task = FewShotClassification(source=spots(), image_size=16, n_way=2)
    encoder = Conv4((1, 16, 16), channels=4).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    draw, drawn = task.labelled_images, []

    def interrupted(*arguments):
        drawn.append(draw(*arguments))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return drawn[0]

    task.labelled_images = interrupted
    with pytest.raises(KeyboardInterrupt):
        pretrain(encoder, task, 3)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_training_starts_with_pretraining_and_keeps_a_frozen_encoder(frozen):
    encoder = EncoderConfig("conv-4", channels=4, pretraining=2, frozen=frozen)
    task = FewShotClassification(source=spots(), image_size=16, n_way=2)
    learner = SupervisedLearner(
        task, config(encoder=encoder), SupervisedConfig(steps=2, batch_size=4, evaluation_episodes=4)
    )
    model = learner.agent.observation_encoder.image_encoders[0].network
    start = {name: value.clone() for name, value in model.state_dict().items()}
    alone = Conv4((1, 16, 16), channels=4)
    alone.load_state_dict(start)
    pretrain(alone, task, 2, seed=0)
    learner.learn(progress_bar=False)
    same = [torch.equal(value, alone.state_dict()[name]) for name, value in model.state_dict().items()]
    assert all(same) if frozen else not any(same[:4])
    assert not all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    assert model.training is not frozen


def test_dropblock_is_deterministic_after_a_resume():
    task = FewShotClassification(source=spots(), image_size=16, n_way=2)
    training = SupervisedConfig(steps=2, batch_size=2, evaluation_episodes=2)
    network = config("none", EncoderConfig("resnet-12", channels=4, pretraining=1))
    runs = []
    for split in (False, True):
        run = SupervisedLearner(task, network, training)
        for module in run.agent.modules():
            if isinstance(module, DropBlock):
                module.batches.fill_(module.growth)  # it drops from the first step on
        before = torch.get_rng_state()
        if split:
            run._pretrain_encoder(run.agent.observation_encoder, _NoLog(), False)
            run.agent.train()
            run._train_step(0)
            run.progress.step, run._is_inside_update = 1, False
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(5)
        run.learn(progress_bar=False)
        runs.append(run.agent.state_dict())
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_dropblock_drops_different_entries_for_each_step_and_seed():
    task = FewShotClassification(source=spots(), image_size=16, n_way=2)
    kept = []
    for seed, steps in ((0, (0, 0, 1)), (1, (0,))):
        training = SupervisedConfig(steps=2, batch_size=2, evaluation_episodes=2, seed=seed)
        run = SupervisedLearner(task, config("none", EncoderConfig("resnet-12")), training)
        block = next(module for module in run.agent.modules() if isinstance(module, DropBlock))
        block.batches.fill_(block.growth)  # it drops from the first step on
        block.register_forward_pre_hook(lambda _, inputs: torch.ones_like(inputs[0]))
        block.register_forward_hook(lambda *arguments: kept.append(arguments[-1] > 0))
        run.agent.train()
        for step in steps:
            run._train_step(step)
    first, again, later, other = kept
    assert not first.all()
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_resumed_learning_equals_one_run_and_evaluates_on_other_classes(tmp_path):
    training = SupervisedConfig(steps=4, batch_size=4, evaluation_episodes=10, evaluation_arguments={"split": "test"})
    network = config("hebbian", dataclasses.replace(CONV, pretraining=1))
    run = SupervisedLearner(TASK, network, training, task_arguments=SMALL, run_dir=tmp_path / "run")
    run.learn(progress_bar=False)
    assert run.task.split == "train"
    assert run.evaluation_agent.task.split == "test"
    assert run.evaluation_agent.core is run.agent.core
    assert run.evaluation_agent.observation_encoder is run.agent.observation_encoder
    assert "split='validation'" in run.evaluate().task
    assert "split='test'" in run.evaluate("test").task
    again = SupervisedLearner.load(tmp_path / "run" / "checkpoint.pt")
    assert again.network_config == network
    assert again.config == training
    assert again.evaluate()["intact"].metric == run.evaluate()["intact"].metric

    first = SupervisedLearner(TASK, network, training, task_arguments=SMALL, run_dir=tmp_path / "halves")
    first._pretrain_encoder(first.agent.observation_encoder, log := _NoLog(), False)
    for step in range(2):
        first.agent.train()
        first._train_step(step)
        first.progress.step += 1
    first.save(tmp_path / "halves" / "checkpoint.pt")
    second = SupervisedLearner.load(tmp_path / "halves" / "checkpoint.pt")
    second.learn(progress_bar=False)
    for a, b in zip(run.agent.state_dict().values(), second.agent.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert list(log.values) == ["pretraining/accuracy"]


class _NoLog:
    def scalars(self, step, values):
        self.values = values


@pytest.mark.parametrize(
    ("counts", "split"),
    [
        ({"train": 4, "validation": 3, "test": 3}, "validation"),
        ({"train": 4, "test": 3}, "train"),
        ({"train": 4, "validation": 2, "test": 3}, "train"),
    ],
)
def test_validation_never_uses_the_test_classes(counts, split, tmp_path, recwarn):
    rng = np.random.default_rng(0)
    arrays = {}
    for name, n_classes in counts.items():
        arrays[f"{name}_images"] = rng.integers(256, size=(4 * n_classes, 16, 16), dtype=np.uint8)
        arrays[f"{name}_labels"] = np.repeat([f"{name}-{label}" for label in range(n_classes)], 4)
    np.savez(tmp_path / "own.npz", **arrays)
    run = SupervisedLearner(
        TASK,
        config("none"),
        SupervisedConfig(evaluation_episodes=4, evaluation_arguments={"split": "test"}),
        task_arguments={"n_way": 3, "image_size": 16, "source": "folder", "path": str(tmp_path / "own.npz")},
    )
    assert run.validation_agent.task.split == split
    assert run.evaluation_agent.task.split == "test"
    warned = [str(warning.message) for warning in recwarn if "no split 'validation'" in str(warning.message)]
    assert len(warned) == (split == "train")
    assert f"split='{split}'" in run.evaluate().task


def test_bad_evaluation_arguments_are_named():
    for arguments, named in (
        ({"n_way": 3}, "evaluation_arguments must leave the task's spaces as they are"),
        ({"split": "exam"}, "split must be one of"),
        ({"split": {1}}, r"evaluation_arguments\[\'split\'\] must be plain data"),
    ):
        training = SupervisedConfig(evaluation_arguments=arguments)
        with pytest.raises((ValueError, TypeError), match=named):
            SupervisedLearner(TASK, config(), training, task_arguments=SMALL)
    with pytest.raises(ValueError, match="evaluation_arguments go with a task given by id"):
        SupervisedLearner(make_task(TASK, **SMALL), config(), SupervisedConfig(evaluation_arguments={"split": "test"}))


def test_one_shot_classification_is_learnt():
    """Each episode has two classes of spots; without memory, the accuracy is 0.5."""
    task = FewShotClassification(source=spots(), image_size=16, n_way=2, n_queries=2)
    encoder = dataclasses.replace(CONV, channels=8, pretraining=40)
    network = NetworkConfig("hebbian", hidden_size=32, plasticity=Plasticity(max_norm=10.0), encoder=encoder)
    training = SupervisedConfig(steps=150, batch_size=16, learning_rate=6e-3, evaluation_episodes=200)
    learner = SupervisedLearner(task, network, training)
    assert learner.learn(progress_bar=False)["intact"].metric.mean > 0.8
    erased = probe(learner.agent, episodes=200, interventions=("fast_erased",))["fast_erased"]
    assert erased.metric.mean < 0.65


def test_a_core_of_your_own_gets_the_features_of_an_observation_encoder():
    task = make_task(TASK, **SMALL)
    encoder = config().make_observation_encoder(task.observation_space)
    agent = SupervisedAgent(task, TorchRNN(4 + 2 + 1, 4, 2), encoder)
    assert agent.observation_encoder is encoder
    assert agent(task.sample(np.random.default_rng(0), 3)).y.shape == (4, 3, 2)
    plain = SupervisedAgent(task, TorchRNN(256 + 2 + 1, 4, 2))
    assert plain(task.sample(np.random.default_rng(0), 3)).y.shape == (4, 3, 2)


# Reinforcement learning


def policy_encoder(model):
    return model.policy.features_extractor.observation_encoder.image_encoders[0].network


@pytest.mark.parametrize("kind", ["ppo", "a2c"])
def test_policies_train_their_encoder_and_can_be_probed(kind):
    task = make_task(TASK, **SMALL)
    env = SB3VecEnv(TaskVectorEnv(task, 4, autoreset_mode="SameStep"))
    model = {"ppo": RecurrentPPO, "a2c": RecurrentA2C}[kind](
        "MultiInputPolicy", env, n_steps=8, policy_kwargs={"network": config("hebbian")}, seed=0
    )
    encoder = policy_encoder(model)
    before = encoder.blocks[0][0].weight.clone()
    model.learn(32)
    assert (encoder.blocks[0][0].weight != before).any()
    report = probe(PolicyAgent(task, model.policy), episodes=10)
    assert list(report) == list(INTERVENTIONS)


def test_policies_are_pretrained_once_and_evaluated_on_other_classes(tmp_path, monkeypatch):
    network = config("hebbian", EncoderConfig("conv-4", channels=4, pretraining=2, frozen=True))
    training = ReinforcementConfig(
        total_timesteps=48,
        n_envs=4,
        evaluation_episodes=10,
        evaluation_arguments={"split": "test"},
        checkpoint_every=16,
    )
    run = ReinforcementLearner(TASK, network, training, task_arguments=SMALL, run_dir=tmp_path / "run")
    alone = Conv4((1, 16, 16), channels=4)
    alone.load_state_dict(policy_encoder(run.model).state_dict())
    pretrain(alone, run.task, 2, seed=0)
    report = run.learn(progress_bar=False)
    assert "split='validation'" in report.task
    assert "split='test'" in run.evaluate("test").task
    assert run.model.env.get_attr("task")[0].split == "train"
    encoder = policy_encoder(run.model)
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in encoder.state_dict().items())

    # A killed run resumes without another pretraining.
    first = ReinforcementLearner(TASK, network, training, task_arguments=SMALL, run_dir=tmp_path / "halves")
    monkeypatch.setattr(first, "evaluate", _killed)
    with pytest.raises(SystemExit):
        first.learn(progress_bar=False)
    second = ReinforcementLearner.load(tmp_path / "halves" / "checkpoint.pt")
    assert 0 < second.progress.step < 48
    second.learn(progress_bar=False)
    for a, b in zip(run.model.policy.parameters(), second.model.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def _killed():
    raise SystemExit


def test_policies_need_an_encoder_for_small_images():
    env = SB3VecEnv(TaskVectorEnv(TASK, 2, autoreset_mode="SameStep"))
    with pytest.raises(ValueError, match=r"network must have an encoder for images smaller.*\(1, 28, 28\)"):
        RecurrentPPO("MultiInputPolicy", env, policy_kwargs={"network": NetworkConfig(hidden_size=4)})
    with pytest.raises(ValueError, match=r"encoder\.pretraining must be 0 in a policy, got 5"):
        network = config(encoder=dataclasses.replace(CONV, pretraining=5))
        RecurrentPPO("MultiInputPolicy", env, policy_kwargs={"network": network})
