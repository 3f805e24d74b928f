"""Action masks: rollouts, updates and predict take valid actions only."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from plastic_agents import RecurrentA2C, RecurrentPPO, SB3VecEnv, make_sb3_vec_env
from plastic_agents.actor_critic.action_masks import checked_masks
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

SPACES = {"discrete": spaces.Discrete(5), "multi-discrete": spaces.MultiDiscrete([2, 3])}


class Masked(gymnasium.Env):
    """An environment that raises an error at an invalid action; the valid ones change at each step."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, action_space=SPACES["discrete"]):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        return self._next(), {}

    def step(self, action):
        if isinstance(self.action_space, spaces.Discrete):
            valid = [self._mask[action]]
        else:
            valid = [self._mask[:2][action[0]], self._mask[2:][action[1]]]
        assert all(valid)
        self._step += 1
        return self._next(), float(np.sum(action)), self._step == 5, False, {}

    def action_masks(self):
        return self._mask

    def _next(self):
        # The last action of each component is always valid.
        self._mask = self.np_random.random(5) < 0.3
        self._mask[[1, 4]] = True
        return self.observation_space.sample()


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_rollouts_and_updates_use_the_masks_of_the_environment(algorithm, space):
    env = make_sb3_vec_env(Masked, 3, env_kwargs={"action_space": space})
    model = algorithm("MlpLstmPolicy", env, n_steps=16, seed=0, policy_kwargs={"lstm_hidden_size": 8})
    model.learn(3 * 16 * 2)
    buffer = model.rollout_buffer
    assert buffer.action_masks.shape == (16, 3, 5)
    assert 0.3 < buffer.action_masks.mean() < 0.9
    # Before a further update, the log-probabilities are those of the rollout.
    _, callback = model._setup_learn(1)
    model.collect_rollouts(model.env, callback, buffer, 16)
    (sequences,) = buffer.sequences(1, model.policy.initial_state)
    output, log_prob, entropy, _ = model._evaluate(sequences)
    torch.testing.assert_close(log_prob, sequences.old_log_prob, atol=1e-5, rtol=1e-5)
    masks = sequences.action_masks
    components = [slice(0, 5)] if isinstance(space, spaces.Discrete) else [slice(0, 2), slice(2, 5)]
    expected = torch.zeros_like(entropy)
    for component in components:
        for step, (logits, mask) in enumerate(zip(output.parameters[:, component], masks[:, component], strict=True)):
            expected[step] += torch.distributions.Categorical(logits=logits[mask]).entropy()
    torch.testing.assert_close(entropy, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_takes_valid_actions(deterministic):
    model = RecurrentPPO("MlpPolicy", Masked(), seed=0)
    observation = np.zeros((5, 3), np.float32)
    actions, state = model.predict(observation, deterministic=deterministic, action_masks=np.eye(5))
    assert actions.tolist() == [0, 1, 2, 3, 4]
    actions, _ = model.predict(observation, state, np.zeros(5), deterministic, action_masks=np.eye(5)[::-1])
    assert actions.tolist() == [4, 3, 2, 1, 0]
    assert model.predict(observation[0], deterministic=deterministic, action_masks=[0, 0, 1, 0, 0])[0] == 2


def test_masks_are_not_forgotten_in_evaluation(tmp_path):
    model = RecurrentPPO("MlpPolicy", Masked(), seed=0)
    with pytest.raises(ValueError, match="action_masks must be given, because the environment has them"):
        evaluate_policy(model, model.get_env(), 1, warn=False)
    model.save(tmp_path / "model.zip")
    for env in (None, Masked()):
        loaded = RecurrentPPO.load(tmp_path / "model.zip", env)
        with pytest.raises(ValueError, match="action_masks must be given"):
            loaded.predict(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("masks", "space", "words"),
    [
        (np.ones((2, 4)), SPACES["discrete"], r"action_masks must have shape \(2, 5\), got \(2, 4\)"),
        (np.ones(5), SPACES["discrete"], r"action_masks must have shape \(2, 5\), got \(5,\)"),
        ([[1, 1, 0, 0, 0]] * 2, SPACES["multi-discrete"], "must have a valid action in each component"),
        (np.ones((2, 3)), spaces.Box(-1, 1, (3,)), "must be None for other actions than Discrete or MultiDiscrete"),
    ],
)
def test_invalid_masks_raise(masks, space, words):
    with pytest.raises(ValueError, match=words):
        checked_masks(masks, space, 2)


def test_environments_with_masks_for_other_actions_raise():
    with pytest.raises(ValueError, match=r"env must have no action_masks, which need Discrete .*Box"):
        RecurrentPPO("MlpPolicy", Masked(spaces.Box(-1, 1, (2,))))


def test_vector_environments_say_whether_they_have_masks():
    async_env = AsyncVectorEnv([Masked], context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
    env = SB3VecEnv(async_env)
    try:
        env.reset()
        assert env.has_attr("action_masks")
        assert not env.has_attr("no_such_attribute")
        # The worker is still there.
        assert env.env_method("action_masks")[0].shape == (5,)
    finally:
        env.close()
    assert DummyVecEnv([Masked]).has_attr("action_masks")
    assert not make_sb3_vec_env("PlasticRNN/CueChoice-v0").has_attr("action_masks")
