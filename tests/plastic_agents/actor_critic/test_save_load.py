"""Files of the actor-critics' models, and Stable-Baselines3's callbacks and evaluation."""

from __future__ import annotations

import io
import zipfile
from copy import deepcopy

import numpy as np
import pytest
import torch
from plastic_agents import CosineSchedule, LinearSchedule, NetworkConfig, Plasticity, RecurrentA2C, RecurrentPPO
from plastic_agents.actor_critic.save_load import _KEYS
from plastic_agents.checkpoint import with_checksum
from plastic_agents.models.core import map_state
from stable_baselines3.common import utils as sb3_utils
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from tests.plastic_agents.checkpoints import drop, put, rewrite, within
from tests.plastic_agents.cores import CORES, Averager
from tests.plastic_agents.environments import ACTIONS, OBSERVATIONS, Recall, Uneven, uneven, vectorised

SMALL = {"network": NetworkConfig("gradient", hidden_size=8, plasticity=Plasticity(max_norm=3.0))}


def trained_model(algorithm=RecurrentPPO, env=None, **arguments):
    arguments = {"n_steps": 6, "seed": 0, "policy_kwargs": SMALL, "device": "cpu", **arguments}
    return algorithm("RecurrentPolicy", uneven() if env is None else env, **arguments).learn(2 * 6 * 4)


def assert_same(a, b):
    """Check that all nested values are equal, tensors bit by bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert_same(value, b[name])
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for item_a, item_b in zip(a, b, strict=True):
            assert_same(item_a, item_b)
    else:
        assert a == b


def assert_acts_alike(model, other, env):
    """Check that actions and states are equal over some steps in which episodes end."""
    env.seed(3)
    observation = env.reset()
    state = other_state = None
    starts = np.ones(env.num_envs, dtype=bool)
    for _ in range(8):
        actions, state = model.predict(observation, state, starts, deterministic=True)
        other_actions, other_state = other.predict(observation, other_state, starts, deterministic=True)
        np.testing.assert_array_equal(actions, other_actions)
        for tensor, other_tensor in zip(_tensors(state), _tensors(other_state), strict=True):
            assert torch.equal(tensor, other_tensor)
        observation, _, starts, _ = env.step(actions)


def test_load_replaces_the_optimiser_of_a2c(tmp_path):
    model = RecurrentA2C("RecurrentPolicy", uneven(), policy_kwargs=SMALL, rms_prop_eps=0.25)
    optimizer = model.policy.optimizer
    assert (type(optimizer), optimizer.defaults["eps"]) == (torch.optim.RMSprop, 0.25)
    model.save(tmp_path / "model")
    for name, value, kind in (("use_rms_prop", True, torch.optim.RMSprop), ("use_rms_prop", False, torch.optim.Adam)):
        loaded = RecurrentA2C.load(tmp_path / "model", **{name: value}).policy.optimizer
        assert type(loaded) is kind
    loaded = RecurrentA2C.load(tmp_path / "model", rms_prop_eps=0.5).policy.optimizer
    assert loaded.defaults["eps"] == 0.5


def test_numbers_of_numpy_are_weights_too():
    trained_model(ent_coef=np.float32(0.01))


@pytest.mark.parametrize(
    ("observation", "action"),
    [*((name, "discrete") for name in OBSERVATIONS), *(("box", name) for name in ACTIONS if name != "discrete")],
)
def test_a_loaded_model_equals_the_saved_model(observation, action, tmp_path):
    env = uneven(observation=observation, action=action)
    model = trained_model(env=env)
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model.zip", device="cpu")
    assert_same(loaded.get_parameters(), model.get_parameters())
    assert (loaded.observation_space, loaded.action_space) == (model.observation_space, model.action_space)
    assert (loaded.num_timesteps, loaded._n_updates) == (48, model._n_updates)
    assert loaded.policy_kwargs == SMALL
    assert_acts_alike(model, loaded, model.get_env())


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
def test_a_loaded_model_learns_like_the_saved_model(algorithm, tmp_path):
    model = trained_model(algorithm, learning_rate=CosineSchedule(1e-2), ent_coef=LinearSchedule(0.1, 0.01))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=uneven(), device="cpu")
    # Files do not have the state inside an episode, so both models must start from a reset.
    model._last_obs = model._last_state = None
    for learner in (model, loaded):
        learner.set_random_seed(1)
        learner.learn(2 * 6 * 4, reset_num_timesteps=False)
    assert model.num_timesteps == loaded.num_timesteps == 96
    assert_same(loaded.get_parameters(), model.get_parameters())


def test_every_argument_is_saved(tmp_path):
    arguments = {
        "learning_rate": CosineSchedule(1e-3, 1e-4),
        "n_steps": 8,
        "batch_size": 24,
        "n_epochs": 3,
        "gamma": 0.8,
        "gae_lambda": 0.7,
        "clip_range": 0.1,
        "clip_range_vf": 0.3,
        "normalize_advantage": False,
        "ent_coef": LinearSchedule(0.1),
        "vf_coef": 0.4,
        "max_grad_norm": 2.0,
        "target_kl": 0.5,
        "sequence_length": 4,
        "reward_prediction_coef": 2.0,
        "stats_window_size": 7,
        "tensorboard_log": str(tmp_path / "logs"),
        "policy_kwargs": {**SMALL, "predicts_reward": True, "latent_size": 5, "optimizer_kwargs": {"eps": 1e-4}},
        "verbose": 0,
        "seed": 3,
    }
    model = RecurrentPPO("RecurrentPolicy", uneven(), **arguments)
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model")
    saved = {name: getattr(loaded, "_stats_window_size" if name == "stats_window_size" else name) for name in arguments}
    for name in ("clip_range", "clip_range_vf"):  # schedules, as in Stable-Baselines3's PPO
        assert isinstance(saved[name], sb3_utils.FloatSchedule)
        saved[name] = saved[name](1.0)
    assert saved == arguments
    assert loaded.policy.heads.actor[-1].in_features == 5
    assert loaded.policy.heads.sizes == (3, 3)
    assert RecurrentPPO.load(tmp_path / "model", gamma=0.5).gamma == 0.5


def test_loading_needs_the_class_of_a_core_again(tmp_path):
    model = trained_model(policy_kwargs={"network": CORES["averager"]})
    model.save(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"policy_kwargs\['network'\] = .*Averager.* give it to load, as policy_kwargs="
    ):
        RecurrentPPO.load(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", policy_kwargs={"network": Averager})
    assert_same(loaded.get_parameters(), model.get_parameters())
    with pytest.raises(ValueError, match="is of another policy"):
        RecurrentPPO.load(tmp_path / "model", policy_kwargs={"network": CORES["feed-forward"]})


@pytest.mark.parametrize("name", ["learning_rate", "clip_range", "clip_range_vf", "ent_coef"])
def test_a_schedule_that_a_file_cannot_hold_is_refused_before_training(name, tmp_path):
    model = RecurrentPPO("RecurrentPolicy", uneven(), policy_kwargs=SMALL, **{name: lambda remaining: 1e-3 * remaining})
    for call in (lambda: model.learn(1), lambda: model.save(tmp_path / "model")):
        with pytest.raises(
            TypeError, match=rf"^{name} must be .*plastic_agents\.LinearSchedule or Cosine.* got .*lambda"
        ):
            call()
    assert model.num_timesteps == 0
    assert not list(tmp_path.iterdir())
    model.save(tmp_path / "model", exclude=[name])
    model.save(tmp_path / "model", exclude=[name], include=["seed"])
    with pytest.raises(TypeError, match=name):
        model.save(tmp_path / "model", exclude=[name], include=[name])
    # A model that only acts needs no schedule.
    loaded = RecurrentPPO.load(tmp_path / "model", **{name: lambda _: 0.0})
    loaded.predict(np.zeros(3, np.float32))


def test_the_linear_schedule_of_rl_zoo_is_saved_as_a_linear_schedule(tmp_path):
    zoo = type("SimpleLinearSchedule", (), {"__module__": "rl_zoo3.utils", "__call__": lambda self, remaining: None})()
    zoo.initial_value = 0.25
    trained_model(learning_rate=zoo, clip_range=zoo).save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model")
    assert loaded.learning_rate == LinearSchedule(0.25)
    assert loaded.clip_range(0.5) == 0.125


@pytest.mark.parametrize(
    "schedule",
    [sb3_utils.ConstantSchedule(1e-3), sb3_utils.LinearSchedule(1e-3, 1e-4, 0.5), sb3_utils.FloatSchedule(1e-3)],
)
def test_schedules_of_stable_baselines3_are_saved(schedule, tmp_path):
    trained_model(learning_rate=schedule, clip_range=schedule).save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model")
    assert repr(loaded.learning_rate) == repr(schedule)
    assert repr(loaded.clip_range) == repr(sb3_utils.FloatSchedule(schedule))


def test_file_objects_and_excluded_arguments():
    model = trained_model(gamma=0.5, seed=3)
    file = io.BytesIO()
    model.save(file, exclude=["gamma", "seed", "logger"], include=["seed"])
    with pytest.raises(TypeError, match="exclude must be a list of names, got 'gamma'"):
        model.save(file, exclude="gamma")
    data = file.getvalue()
    loaded = RecurrentPPO.load(file)  # at its end
    assert (loaded.gamma, loaded.seed) == (0.99, 3)
    assert_same(loaded.get_parameters(), model.get_parameters())
    loaded.set_parameters(io.BytesIO(data))
    with pytest.raises(ValueError, match=r"BytesIO cannot be read as a checkpoint: .*damaged"):
        RecurrentPPO.load(io.BytesIO(data[:-1]))


def test_custom_objects_replace_arguments_and_other_names_are_ignored(tmp_path):
    trained_model().save(tmp_path / "model")
    custom = {"gamma": 0.7, "lr_schedule": lambda _: 0.0, "learning_rate": 0.0}
    loaded = RecurrentPPO.load(tmp_path / "model", custom_objects=custom)
    assert (loaded.gamma, loaded.learning_rate) == (0.7, 0.0)
    with pytest.raises(ValueError, match="patience"):
        RecurrentPPO.load(tmp_path / "model", patience=3)


@pytest.mark.parametrize(("saved", "loaded"), [(2, 5), (8, 1)])
def test_a_model_loads_with_another_number_of_environments(saved, loaded, tmp_path):
    model = RecurrentPPO("MlpPolicy", vectorised(Recall, saved), n_steps=6, batch_size=12, policy_kwargs=SMALL)
    model.save(tmp_path / "model")
    loaded_model = RecurrentPPO.load(tmp_path / "model", env=vectorised(Recall, loaded))
    assert loaded_model.learn(6 * loaded).num_timesteps == 6 * loaded


def test_classes_and_plain_networks_are_saved(tmp_path):
    policy_kwargs = {"network": {"rule": "hebbian", "hidden_size": 8}, "optimizer_class": torch.optim.AdamW}
    trained_model(policy_kwargs=policy_kwargs).save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model")
    assert type(loaded.policy.optimizer) is torch.optim.AdamW
    assert loaded.policy.core.rule_name == "hebbian"


def test_a_model_with_normalised_observations_loads_with_or_without_its_environment(tmp_path):
    env = VecNormalize(uneven())
    model = trained_model(env=env)
    model.save(tmp_path / "model")
    env.save(tmp_path / "normalisation")
    restored = VecNormalize.load(tmp_path / "normalisation", uneven())
    restored.training = False
    for loaded in (RecurrentPPO.load(tmp_path / "model"), RecurrentPPO.load(tmp_path / "model", env=restored)):
        assert_acts_alike(model, loaded, restored)


class Hostile:
    """Writes a file if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_hostile_file_is_refused_and_runs_no_code(tmp_path):
    model = trained_model()
    model.save(tmp_path / "model")
    file = torch.load(tmp_path / "model.zip", weights_only=True)
    file["content"]["arguments"]["gamma"] = Hostile(tmp_path / "harm")
    torch.save(file, tmp_path / "hostile.zip")
    (tmp_path / "hostile.zip").write_bytes(with_checksum((tmp_path / "hostile.zip").read_bytes()))
    # An unsafe read runs the code.
    torch.load(tmp_path / "hostile.zip", weights_only=False)
    assert (tmp_path / "harm").exists()
    (tmp_path / "harm").unlink()
    for read in (RecurrentPPO.load, model.set_parameters):
        with pytest.raises(
            ValueError, match="cannot be read as a checkpoint: it holds more than tensors and plain data"
        ):
            read(tmp_path / "hostile.zip")
    assert not (tmp_path / "harm").exists()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    model = trained_model()
    model.save(tmp_path / "model")
    whole = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("data", "{}")
    torch.save(torch.zeros(3), tmp_path / "tensor.zip")
    for name, message in (
        ("cut", "cut short, damaged"),
        ("archive", "cannot be read as a checkpoint"),
        ("tensor", "does not end with a checksum"),
    ):
        with pytest.raises(ValueError, match=message):
            RecurrentPPO.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing\.zip"):
        RecurrentPPO.load(tmp_path / "missing")
    with pytest.raises(ValueError, match="of kind 'RecurrentPPO', expected 'RecurrentA2C'"):
        RecurrentA2C.load(tmp_path / "model")
    with pytest.raises(ValueError, match="spaces do not match"):
        RecurrentPPO.load(tmp_path / "model", env=uneven(observation="discrete"))
    with pytest.raises(ValueError, match="force_reset must be True"):
        RecurrentPPO.load(tmp_path / "model", force_reset=False)


WRONG = {
    **{f"no {name}": drop(name) for name in _KEYS},
    **{f"{name} a number": put(name, 3) for name in _KEYS if name != "n_envs"},
    "an unknown argument": within("arguments", put("patience", 1)),
    "an argument of another type": within("arguments", put("policy_kwargs", [1])),
    "a schedule of another kind": within("arguments", put("ent_coef", {"__kind__": "Exponential"})),
    "a schedule without its numbers": within("arguments", put("ent_coef", {"__kind__": "CosineSchedule"})),
    "a missing counter": within("counters", drop("num_timesteps")),
    "an unknown counter": within("counters", put("policy", 1)),
    "a counter of another type": within("counters", put("num_timesteps", "many")),
    "a space without its bounds": within("observation_space", drop("low")),
    "a space of another kind": within("action_space", put("__kind__", "Graph")),
    "no policy": within("parameters", drop("policy")),
    "a missing parameter": within("parameters", within("policy", lambda policy: dict(list(policy.items())[1:]))),
    "no optimizer": within("parameters", drop("policy.optimizer")),
    "an optimizer without its groups": within("parameters", within("policy.optimizer", drop("param_groups"))),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_content_is_a_value_error_that_names_the_file(name, tmp_path):
    RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL, device="cpu").save(tmp_path / "model")
    rewrite(tmp_path / "model.zip", WRONG[name])
    with pytest.raises(
        ValueError, match=r"model\.zip (does not fit this installation|cannot be loaded|is of another policy)"
    ):
        RecurrentPPO.load(tmp_path / "model", device="cpu")


def test_a_damaged_model_is_refused(tmp_path):
    model = trained_model()
    model.save(tmp_path / "model")
    whole = (tmp_path / "model.zip").read_bytes()
    for offset in range(0, len(whole), len(whole) // 50):
        (tmp_path / "model.zip").write_bytes(whole[:offset] + bytes([whole[offset] ^ 16]) + whole[offset + 1 :])
        for read in (RecurrentPPO.load, model.set_parameters):
            with pytest.raises(ValueError, match=r"model\.zip cannot be read as a checkpoint: .*damaged"):
                read(tmp_path / "model.zip")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model = trained_model()
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()

    def fail(content, file):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
def test_callbacks_of_stable_baselines3_save_models_and_logs(algorithm, tmp_path):
    evaluation = EvalCallback(
        vectorised(Recall, 2),
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path / "best"),
        eval_freq=6,
        n_eval_episodes=4,
        verbose=0,
    )
    checkpoints = CheckpointCallback(6, str(tmp_path / "checkpoints"), name_prefix="model")
    model = algorithm("RecurrentPolicy", vectorised(Recall), n_steps=6, tensorboard_log=str(tmp_path / "logs"))
    model.learn(2 * 6 * 4, callback=[evaluation, checkpoints], progress_bar=True)
    assert len(evaluation.evaluations_results) == 2
    assert np.isfinite(evaluation.best_mean_reward)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "model_24_steps.zip",
        "model_48_steps.zip",
    ]
    last = algorithm.load(tmp_path / "checkpoints" / "model_48_steps")
    # The callback saves at the last step of a rollout, before the update.
    assert last.num_timesteps == 48
    assert algorithm.load(tmp_path / "best" / "best_model.zip").num_timesteps in (24, 48)
    (run,) = (tmp_path / "logs").iterdir()
    assert run.name == f"{algorithm.__name__}_1"
    assert list(run.iterdir())
    mean, spread = evaluate_policy(last, vectorised(Recall, 3), n_eval_episodes=9)
    assert 0 <= mean <= 1
    assert 0 <= spread <= 1


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_predict_of_one_observation_equals_predict_of_a_batch(observation):
    model = trained_model(env=uneven(observation=observation))
    env = model.get_env()
    env.seed(0)
    batch = env.reset()

    def lane(index):
        return {name: array[index] for name, array in batch.items()} if isinstance(batch, dict) else batch[index]

    batch_actions, states = model.predict(batch, deterministic=True)
    assert batch_actions.shape == (4,)
    for index in range(4):
        action, state = model.predict(lane(index), deterministic=True)
        assert action.shape == ()
        assert action == batch_actions[index]
        for tensor, batch_tensor in zip(_tensors(state), _tensors(states), strict=True):
            torch.testing.assert_close(tensor[0], batch_tensor[index], rtol=1e-4, atol=1e-6)


def test_predict_does_not_change_its_state_and_restarts_at_episode_starts():
    model = trained_model()
    env = model.get_env()
    first, second = env.reset(), env.step(np.zeros(4, int))[0]
    _, state = model.predict(first, deterministic=True)
    before = map_state(torch.clone, state)
    _, continued = model.predict(second, state, np.zeros(4, bool), deterministic=True)
    starts = np.array([True, False, False, True])
    _, mixed = model.predict(second, state, starts, deterministic=True)
    _, restarted = model.predict(second, None, deterministic=True)
    for after, unchanged in zip(_tensors(state), _tensors(before), strict=True):
        assert torch.equal(after, unchanged)
    different = False
    for tensor, new, old in zip(_tensors(mixed), _tensors(restarted), _tensors(continued), strict=True):
        torch.testing.assert_close(tensor[starts], new[starts])
        torch.testing.assert_close(tensor[~starts], old[~starts])
        different |= not torch.equal(new, old)
    assert different


def _tensors(state):
    tensors = []
    map_state(tensors.append, state)
    return tensors


def test_an_id_or_a_single_environment_is_accepted():
    for env in ("PlasticRNN/CueChoice-v0", Uneven()):
        model = RecurrentPPO("RecurrentPolicy", env, n_steps=8, policy_kwargs=SMALL).learn(16)
        assert model.num_timesteps == 16
        action, state = model.predict(model.get_env().reset())
        assert action.shape == (1,)
        assert model.predict(model.get_env().reset(), deepcopy(state))[0].shape == (1,)
