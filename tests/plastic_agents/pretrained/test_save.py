"""Folders that share a trained network: they load without running code, and their model card states the score."""

import json
import re

import numpy as np
import pytest
import torch
from plastic_agents import (
    LinearSchedule,
    NetworkConfig,
    RecurrentPPO,
    SupervisedConfig,
    SupervisedLearner,
    load_pretrained,
    load_vec_normalize,
    probe,
    save_policy,
    save_pretrained,
    save_vec_normalize,
)
from stable_baselines3.common.vec_env import VecNormalize

from plastic_envs import make_task
from tests.plastic_agents.checkpoints import drop, put, rewrite, within
from tests.plastic_agents.environments import uneven


def metadata(folder):
    """Return the metadata at the head of the model card."""
    empty, header, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert empty == ""
    return json.loads(header)


def test_a_folder_has_the_network_its_settings_and_its_score(tmp_path):
    config = SupervisedConfig(steps=2, batch_size=2, evaluation_episodes=4)
    network = NetworkConfig("hebbian", hidden_size=4)
    learner = SupervisedLearner("PlasticRNN/CueReward-v0", network, config, task_arguments={"n_cues": 2})
    learner.learn(progress_bar=False)
    folder = tmp_path / "shared"
    card = save_pretrained(learner, folder, episodes=5)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "card.json", "README.md"}
    for name in (folder, str(folder)):
        report = probe(load_pretrained(name), episodes=5, seed=1, interventions=["intact"], step=0)
        assert report["intact"].metric == card.score
    (result,) = metadata(folder)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "PlasticRNN/CueReward-v0"
    assert float(result["metrics"][0]["value"].split()[0]) == pytest.approx(card.score.mean, rel=1e-3)
    tags = metadata(folder)["tags"]
    assert sorted(tags) == sorted({"PlasticRNN/CueReward-v0", "hebbian", "rnn", "supervised", "plastic-rnn"})
    assert metadata(folder)["model-index"][0]["name"] == "hebbian rnn on PlasticRNN/CueReward-v0"
    text = (folder / "README.md").read_text()
    assert "\n# hebbian rnn on PlasticRNN/CueReward-v0\n" in text
    assert "| plasticity rule | hebbian |\n| cell | rnn |\n" in text
    for name, value in (
        ("mean squared error, 5 test episodes", card.score),
        ("oracle", card.oracle),
        ("memoryless", card.memoryless),
    ):
        assert f"| {name} | {value.mean:.4g} +/- " in text
    with pytest.raises(ValueError, match="episodes must be at least 2, got 1"):
        save_pretrained(learner, folder, episodes=1)
    load_pretrained(folder)
    # Both files of the network are checked.
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_pretrained(folder)
    with pytest.raises(FileNotFoundError, match=r"card\.json"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("missing", ["task_id", "network_config"])
def test_a_learner_that_a_card_cannot_describe_raises(missing, tmp_path):
    task, network = "PlasticRNN/CueReward-v0", NetworkConfig("hebbian", hidden_size=4)
    if missing == "task_id":
        task = make_task(task)
    else:
        network = network.make_core(16, 1)
    learner = SupervisedLearner(task, network, SupervisedConfig(steps=1))
    with pytest.raises(ValueError, match=f"learner must have the id of a task and a NetworkConfig.*{missing}=None"):
        save_pretrained(learner, tmp_path / "shared", episodes=5)
    assert not (tmp_path / "shared").exists()


def test_a_folder_has_a_policy_of_any_environment(tmp_path):
    model = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", learning_rate=LinearSchedule(1e-3), seed=0)
    save_policy(model, tmp_path, env_id="CartPole-v1", mean_reward=(20.5, 2.0))
    assert {path.name for path in tmp_path.iterdir()} == {"model.zip", "settings.json", "README.md"}
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["algorithm"], settings["env_id"]) == ("RecurrentPPO", "CartPole-v1")
    assert settings["arguments"]["n_epochs"] == 10
    (result,) = metadata(tmp_path)["model-index"][0]["results"]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["metrics"][0]["value"] == "20.5 +/- 2"
    loaded = RecurrentPPO.load(tmp_path / "model.zip")
    observation = np.ones(4, np.float32)
    assert loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]


def test_a_policy_that_a_folder_cannot_hold_raises(tmp_path):
    model = RecurrentPPO("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match=r"mean_reward must be two finite numbers, .* got \(nan, 1.0\)"):
        save_policy(model, tmp_path, env_id="CartPole-v1", mean_reward=(float("nan"), 1.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("observation", ["box", "dict"])
def test_a_folder_has_the_statistics_of_normalised_observations(observation, tmp_path):
    """The actions in new episodes are those of the trained model, and training continues with the statistics."""
    keys = {"norm_obs_keys": ["v"]} if observation == "dict" else {}
    env = VecNormalize(uneven(observation=observation), clip_obs=np.inf, gamma=0.9, **keys)
    model = RecurrentPPO("RecurrentPolicy", env, 1e-2, n_steps=12, seed=0, policy_kwargs={"network": "lstm"}).learn(48)
    save_policy(model, tmp_path, env_id="Uneven", mean_reward=(1.0, 1.0))
    text = (tmp_path / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"env": uneven(observation=observation)}
    exec(code.replace('"vec_', f'"{tmp_path}/vec_').replace('"model', f'"{tmp_path}/model'), names)
    restored, loaded = names["env"], names["model"]
    assert (restored.training, restored.norm_reward, restored.gamma, restored.clip_obs) == (False, False, 0.9, np.inf)
    assert (restored.ret_rms.var, restored.ret_rms.count) == (env.ret_rms.var, env.ret_rms.count)
    env.training = False
    for environment in (env, restored):
        environment.seed(4)
    first, second = env.reset(), restored.reset()
    for _ in range(3):
        pairs = [(first[key], second[key]) for key in first] if observation == "dict" else [(first, second)]
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours, theirs)
        actions = loaded.predict(second, deterministic=True)[0]
        np.testing.assert_array_equal(model.predict(first, deterministic=True)[0], actions)
        first, second = env.step(actions)[0], restored.step(actions)[0]
    model = RecurrentPPO("RecurrentPolicy", uneven(observation=observation), policy_kwargs={"network": "lstm"})
    save_policy(model, tmp_path, env_id="Uneven", mean_reward=(1.0, 1.0))
    assert not (tmp_path / "vec_normalize.zip").exists(), "the statistics belong to the earlier model"


def test_statistics_that_do_not_fit_are_refused(tmp_path):
    class Other(VecNormalize):
        """Normalises in another way."""

    path = tmp_path / "vec_normalize.zip"
    with pytest.raises(TypeError, match=r"env must be a VecNormalize, and of no subclass, got .*Other"):
        save_vec_normalize(Other(uneven()), path)
    save_vec_normalize(VecNormalize(uneven()), path)
    with pytest.raises(ValueError, match=r"observation must have shape \(3,\), got an environment with \(2,\)"):
        load_vec_normalize(path, uneven(observation="unbounded"))
    for change, message in (
        (within("settings", put("clip_obs", "wide")), "clip_obs must be of type"),
        (within("settings", drop("gamma")), "gamma"),
        (within("statistics", drop("return")), r"must hold statistics of \['observation', 'return'\]"),
        (within("statistics", within("return", put("count", 0.0))), "the return must be finite, with positive"),
        (within("statistics", within("return", put("var", torch.tensor(np.inf)))), "the return must be finite"),
    ):
        save_vec_normalize(VecNormalize(uneven()), path)
        rewrite(path, change)
        with pytest.raises(ValueError, match=rf"vec_normalize\.zip does not fit this installation: .*{message}"):
            load_vec_normalize(path, uneven())


def test_folders_without_a_network_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no card\.json: it is no folder of save_pretrained"):
        load_pretrained(tmp_path)
    save_policy(RecurrentPPO("RecurrentPolicy", uneven()), tmp_path, env_id="Uneven", mean_reward=(1.0, 1.0))
    with pytest.raises(FileNotFoundError, match=r"it is a folder of save_policy: .* RecurrentPPO\.load"):
        load_pretrained(tmp_path)
    for text in ("{", "3", "[]", "\0"):
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(ValueError, match=r"card\.json must be a card in JSON with task, .*sha256: "):
            load_pretrained(tmp_path)
