"""TensorBoard's files: settings, images of episodes, and norms of fast weights."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from plastic_agents import (
    Curriculum,
    NetworkConfig,
    ReinforcementConfig,
    ReinforcementLearner,
    SupervisedAgent,
    SupervisedConfig,
    SupervisedLearner,
    probe,
)
from plastic_agents.models.image_encoders import EncoderConfig
from plastic_agents.seeding import held_out_rng
from plastic_agents.training.tensorboard import RunLog, play_examples
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

from plastic_envs import make_task
from plastic_envs.rendering import draw_episode

CUES = {"n_cues": 2, "n_support": 3, "n_queries": 3}
TRIALS = {"n_cues": 2, "n_trials": 3}
TASKS = {
    "CueReward": CUES,
    "CueChoice": TRIALS,
    "SequenceReproduction": {"length": 3, "delay": 2},
    "FewShotClassification": {"n_way": 2},
}


def supervised(run_dir, **changes):
    config = SupervisedConfig(steps=6, batch_size=4, evaluate_every=3, evaluation_episodes=8)
    return SupervisedLearner(
        "PlasticRNN/CueReward-v0",
        NetworkConfig("hebbian", hidden_size=8),
        replace(config, **changes),
        task_arguments=CUES,
        run_dir=run_dir,
    )


def policy(run_dir):
    config = ReinforcementConfig("ppo", total_timesteps=48, n_envs=4, evaluate_every=24, evaluation_episodes=8, seed=3)
    network = NetworkConfig("none", "gru", hidden_size=8)
    return ReinforcementLearner("PlasticRNN/CueChoice-v0", network, config, task_arguments=TRIALS, run_dir=run_dir)


def settings_in(run_dir):
    """Return the settings of each entry for the HPARAMS page."""
    settings = []
    for path in sorted(run_dir.glob("events.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag == SESSION_START_INFO_TAG:
                    info = parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
                    kinds = {name: value.WhichOneof("kind") for name, value in info.hparams.items()}
                    settings.append({name: getattr(info.hparams[name], kind) for name, kind in kinds.items()})
                    assert not info.group_name  # the name of a trial is that of its run
    return settings


def events_in(run_dir):
    events = EventAccumulator(str(run_dir))
    events.Reload()
    return events


def example_in(events, at=-1):
    return np.asarray(Image.open(io.BytesIO(events.Images("example_episode")[at].encoded_image_string)))


class Perfect(SupervisedAgent):
    """An agent that takes the actions of the oracle."""

    def play(self, episode, hooks=None):
        return self.task.oracle(episode), super().play(episode, hooks)[1]


def test_nan_scalars_are_left_out(tmp_path):
    with RunLog(tmp_path) as log:
        log.scalars(1, {"loss": 1.0, "eta": float("nan")})
        log.scalars(2, {"loss": float("nan"), "eta": 2.0})
    events = events_in(tmp_path)
    assert {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in ("loss", "eta")} == {
        "loss": [(1, 1.0)],
        "eta": [(2, 2.0)],
    }


def test_a_resumed_run_writes_its_settings_only_once(tmp_path):
    run = supervised(tmp_path, steps=3)
    run.learn(progress_bar=False)
    again = SupervisedLearner.load(tmp_path / "checkpoint.pt")
    again.config = replace(again.config, steps=6)
    again.learn(progress_bar=False)
    assert len(list(tmp_path.glob("events.*"))) == 2
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    (settings,) = settings_in(tmp_path)
    assert settings == {
        "task": "PlasticRNN/CueReward-v0",
        "task_arguments.n_cues": 2,
        "task_arguments.n_support": 3,
        "task_arguments.n_queries": 3,
        "algorithm": "supervised",
        "rule": "hebbian",
        "cell": "rnn",
        "hidden_size": 8,
        "n_layers": 1,
        "parameters": sum(parameter.numel() for parameter in run.agent.parameters()),
        "plasticity.modulated": True,
        "plasticity.rate": 0.2,
        "plasticity.decay": 0.2,
        "plasticity.extra": 4,
        "plasticity.alpha_init": "random",
        "plasticity.max_norm": 1.0,
        "plasticity.layers": '["input", "input_to_hidden", "hidden_to_hidden", "readout"]',
        "steps": 3,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "schedule": "cosine",
        "final_learning_rate": 0.1,
        "weight_decay": 0.0,
        "max_gradient_norm": 5.0,
        "seed": 0,
    }


def test_a_new_run_shows_its_own_settings(tmp_path):
    run = supervised(tmp_path, learning_rate=1e-3)
    run._train_step = None  # ends before the first checkpoint
    with pytest.raises(TypeError):
        run.learn(progress_bar=False)
    assert settings_in(tmp_path)[0]["learning_rate"] == 1e-3
    supervised(tmp_path, learning_rate=2e-2).learn(progress_bar=False)
    (settings,) = settings_in(tmp_path)
    assert settings["learning_rate"] == 2e-2


def test_settings_without_effect_are_left_out(tmp_path):
    policy(tmp_path).learn(progress_bar=False)
    (settings,) = settings_in(tmp_path)
    expected = {"algorithm": "ppo", "rule": "none", "cell": "gru", "n_envs": 4, "seed": 3, "task_arguments.n_trials": 3}
    assert expected.items() <= settings.items()
    assert not [name for name in settings if name.startswith(("plasticity", "encoder"))]


def test_nested_settings_have_names_with_dots(tmp_path):
    supervised(tmp_path, curriculum=Curriculum("n_queries", first=1)).learn(progress_bar=False)
    (settings,) = settings_in(tmp_path)
    assert (settings["curriculum.argument"], settings["curriculum.first"]) == ("n_queries", 1)


def test_a_run_resumed_in_another_folder_writes_its_settings_there(tmp_path):
    supervised(tmp_path / "one", steps=3).learn(progress_bar=False)
    again = SupervisedLearner.load(tmp_path / "one" / "checkpoint.pt", run_dir=tmp_path / "two")
    again.config = replace(again.config, steps=6)
    again.learn(progress_bar=False)
    assert settings_in(tmp_path / "one")[0].items() - {("steps", 3)} <= settings_in(tmp_path / "two")[0].items()


@pytest.mark.parametrize("name", TASKS)
def test_example_image_shows_the_agents_actions_in_the_first_validation_episode(name, tmp_path):
    task = make_task(f"PlasticRNN/{name}-v0", **TASKS[name])
    agents = {
        "untrained": SupervisedAgent(task, NetworkConfig(hidden_size=4)),
        "perfect": Perfect(task, NetworkConfig()),
    }
    images = {}
    for agent_name, agent in agents.items():
        with RunLog(tmp_path / agent_name) as log:
            report = probe(agent, episodes=8, interventions=("intact",), step=0)
            for step in (1, 2):
                log.evaluation(step, agent, report, "network")
        events = events_in(tmp_path / agent_name)
        images[agent_name] = example_in(events)
        np.testing.assert_array_equal(images[agent_name], example_in(events, at=0))
    assert (images["untrained"] != images["perfect"]).any()
    episode = task.sample(held_out_rng(0, "validation"), 64)[:1]
    np.testing.assert_array_equal(images["perfect"], draw_episode(task, episode, task.oracle(episode)[0]))


@pytest.mark.parametrize(
    ("name", "metric"), [("FewShotRegression", "within_0.05"), ("FewShotClassification", "first_query_accuracy")]
)
def test_secondary_metrics_have_tags_beside_the_main_one(name, metric, tmp_path):
    agent = Perfect(make_task(f"PlasticRNN/{name}-v0"), NetworkConfig(hidden_size=4))
    report = probe(agent, episodes=20, interventions=("intact",))
    with RunLog(tmp_path) as log:
        log.evaluation(7, agent, report, "network")
    events = events_in(tmp_path)
    value = report.oracle_secondary_metrics[metric].mean
    for tag, expected in {
        f"evaluation/{metric}": value,  # the agent is the oracle
        f"reference/oracle_{metric}": value,
        f"reference/memoryless_{metric}": report.memoryless_secondary_metrics[metric].mean,
    }.items():
        (event,) = events.Scalars(tag)
        assert (event.step, event.value) == (7, pytest.approx(expected))
    assert value != pytest.approx(report.memoryless_secondary_metrics[metric].mean)
    assert events.Scalars(f"evaluation/{report.metric_name.replace(' ', '_')}")


def test_runs_write_images_at_each_evaluation(tmp_path):
    policy(tmp_path).learn(progress_bar=False)
    events = events_in(tmp_path)
    for tag in ("adaptation", "example_episode"):
        assert [event.step for event in events.Images(tag)] == [24, 48]
        assert Image.open(io.BytesIO(events.Images(tag)[0].encoded_image_string)).width > 500


def test_plastic_networks_also_write_scores_under_interventions_fast_weights_and_eta(tmp_path):
    run = supervised(tmp_path / "plastic")
    run.learn(progress_bar=False)
    events = events_in(tmp_path / "plastic")
    report = probe(run.validation_agent, episodes=64, split="validation")
    expected = {
        "intact": report["intact"].metric,
        "no_writing": report["no_writing"].metric,
        "fast_weights_erased": report["fast_erased"].metric,
        "hidden_state_erased": report["hidden_erased"].metric,
        "twin_fast_weights": report["fast_transplant"].metric,
        "twin_fast_weights_for_twin_targets": report["fast_transplant"].twin_metric,
        "twin_hidden_state": report["hidden_transplant"].metric,
        "twin_hidden_state_for_twin_targets": report["hidden_transplant"].twin_metric,
    }
    written = {tag.removeprefix("probe/") for tag in events.Tags()["scalars"] if tag.startswith("probe/")}
    assert written == expected.keys()
    for name, score in expected.items():
        events_of_tag = events.Scalars(f"probe/{name}")
        assert [event.step for event in events_of_tag] == [3, 6]
        assert events_of_tag[-1].value == pytest.approx(score.mean), name
    for tag in ("fast_weights", "eta"):
        assert [event.step for event in events.Images(tag)] == [3, 6]

    policy(tmp_path / "none").learn(progress_bar=False)
    tags = events_in(tmp_path / "none").Tags()
    assert not [tag for tag in tags["scalars"] if tag.startswith("probe/")]
    assert set(tags["images"]) == {"adaptation", "example_episode"}


def test_examples_have_norms_before_the_last_step_and_fast_weights_before_the_first_query():
    agent = SupervisedAgent(make_task("PlasticRNN/CueReward-v0", **CUES), NetworkConfig("hebbian", hidden_size=8))
    examples = play_examples(agent, 5)
    episodes = examples.episodes
    fast = agent.state_before(episodes, agent.task.episode_length - 1).fast
    expected = [np.sqrt((weight.detach().numpy() ** 2).sum()) for weight in fast["hidden_to_hidden"].weight]
    np.testing.assert_allclose(examples.norms["hidden_to_hidden"], np.mean(expected), rtol=1e-5)
    fast = agent.state_before(episodes, agent.task.query_start).fast
    assert examples.fast.keys() == fast.keys()
    np.testing.assert_allclose(examples.fast["readout"], fast["readout"].weight[0].detach(), rtol=1e-5)
    actions, output = agent.play(episodes)
    np.testing.assert_allclose(examples.actions, actions, rtol=1e-5)
    np.testing.assert_allclose(examples.eta, output.eta.mean(1), rtol=1e-5)


def test_logging_an_evaluation_does_not_change_a_network_in_training(tmp_path):
    # In training mode, batch normalisation would update its statistics with the held-out episodes.
    task = make_task("PlasticRNN/FewShotClassification-v0", n_way=2)
    agent = SupervisedAgent(task, NetworkConfig("none", hidden_size=4, encoder=EncoderConfig("conv-4", channels=2)))
    agent.train()
    report = probe(agent, episodes=4, interventions=("intact",))
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    with RunLog(tmp_path) as log:
        log.evaluation(1, agent, report, "network")
    assert agent.training
    for name, value in agent.state_dict().items():
        assert torch.equal(value, before[name]), name
