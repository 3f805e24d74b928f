"""Folders that share a trained network: they load without running code, and their model card states the score."""

import json

import numpy as np
import pytest
from plastic_agents import (
    NetworkConfig,
    RecurrentPPO,
    SupervisedConfig,
    SupervisedLearner,
    load_pretrained,
    probe,
    save_policy,
    save_pretrained,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from plastic_envs import make_task


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
    model = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", learning_rate=lambda rest: rest * 1e-3, seed=0)
    save_policy(model, tmp_path, env_id="CartPole-v1", mean_reward=(20.5, 2.0))
    assert {path.name for path in tmp_path.iterdir()} == {"model.zip", "settings.json", "README.md"}
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert (settings["algorithm"], settings["env_id"]) == ("RecurrentPPO", "CartPole-v1")
    assert settings["arguments"]["n_epochs"] == 10
    (result,) = metadata(tmp_path)["model-index"][0]["results"]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["metrics"][0]["value"] == "20.5 +/- 2"
    with pytest.warns(UserWarning, match="learning_rate"):
        loaded = RecurrentPPO.load(tmp_path / "model.zip")
    observation = np.ones(4, np.float32)
    assert loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]


def test_a_policy_that_a_folder_cannot_hold_raises(tmp_path):
    model = RecurrentPPO("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match=r"mean_reward must be two finite numbers, .* got \(nan, 1.0\)"):
        save_policy(model, tmp_path, env_id="CartPole-v1", mean_reward=(float("nan"), 1.0))
    model = RecurrentPPO("MlpPolicy", VecNormalize(make_vec_env("CartPole-v1")))
    with pytest.raises(ValueError, match=r"without VecNormalize\(norm_obs=True\)"):
        save_policy(model, tmp_path, env_id="CartPole-v1", mean_reward=(1.0, 1.0))
    assert not list(tmp_path.iterdir())
