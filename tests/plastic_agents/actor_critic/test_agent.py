"""PolicyAgent: it acts as the policy does in the environment, and probes and traces accept it."""

import numpy as np
import pytest
import torch
from plastic_agents import INTERVENTIONS, NetworkConfig, PolicyAgent, RecurrentPPO, make_sb3_vec_env, probe
from plastic_agents.analysis.traces import trace
from plastic_agents.training.tensorboard import play_examples
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

from plastic_envs import make_task

TASKS = {
    "box": ("PlasticRNN/CueReward-v0", {"n_cues": 3, "n_support": 4, "n_queries": 3}),
    "interactive": ("PlasticRNN/CueChoice-v0", {"n_trials": 4}),
}


def trained_model(kind, rule="hebbian", outputs="readout", lanes=8, rollouts=2):
    env_id, arguments = TASKS[kind]
    env = make_sb3_vec_env(env_id, lanes, env_kwargs=arguments)
    policy = {"network": NetworkConfig(rule, hidden_size=8), "outputs": outputs}
    model = RecurrentPPO("RecurrentPolicy", env, 1e-2, n_steps=8, n_epochs=1, policy_kwargs=policy, seed=0)
    model.learn(rollouts * 8 * lanes)
    return model, make_task(env_id, **arguments)


@pytest.mark.parametrize("outputs", ["readout", "heads"])
@pytest.mark.parametrize("kind", TASKS)
def test_play_has_the_returns_of_the_policy_in_the_environment(kind, outputs):
    model, task = trained_model(kind, outputs=outputs, rollouts=0)
    # Without large random parameters, an untrained policy takes the same action everywhere.
    for parameter in model.policy.parameters():
        nn.init.normal_(parameter, std=0.7)
    agent = PolicyAgent(task, model.policy)
    env = model.get_env()
    env.seed(5)
    env.reset()
    episode = env.unwrapped.env._episode.copy()
    env.seed(5)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=8, return_episode_rewards=True)
    actions, _ = agent.play(episode)
    np.testing.assert_allclose(task.rewards(episode, actions).sum(axis=1), returns, rtol=1e-5)
    assert len(set(returns)) > 1


@pytest.mark.parametrize("kind", TASKS)
def test_policies_can_be_probed_traced_and_logged(kind):
    model, task = trained_model(kind)
    agent = PolicyAgent(task, model.policy)
    report = probe(agent, episodes=20)
    assert list(report) == list(INTERVENTIONS)
    episode = task.sample(np.random.default_rng(0), 4)
    result, norms = trace(agent, episode), play_examples(agent, 4)[2]
    assert len(result.eta) == task.episode_length
    assert set(result.norm) == set(norms)
    assert norms["hidden_to_hidden"] > 0


def test_policies_without_plasticity_get_the_hidden_interventions():
    model, task = trained_model("interactive", rule="none")
    report = probe(PolicyAgent(task, model.policy), episodes=10)
    assert list(report) == ["intact", "hidden_erased", "hidden_transplant"]


def test_box_actions_are_clipped_to_their_bounds():
    model, task = trained_model("box", rollouts=0)
    with torch.no_grad():
        model.policy.core.readout.bias[0] = 40.0
    actions, _ = PolicyAgent(task, model.policy).play(task.sample(np.random.default_rng(0), 2))
    assert (actions == 1).all()


def test_arguments_of_the_wrong_type_are_named():
    model, task = trained_model("box", rollouts=0)
    with pytest.raises(TypeError, match=r"task must be a Task, for example from .*make_task, got 'PlasticRNN"):
        PolicyAgent(TASKS["box"][0], model.policy)
    with pytest.raises(TypeError, match=r"policy must be a RecurrentPolicy, such as .* got <.*RecurrentPPO"):
        PolicyAgent(task, model)


def test_a_policy_with_other_spaces_is_refused():
    model, _ = trained_model("box", rollouts=0)
    with pytest.raises(ValueError, match=r"policy must have the observation_space of CueChoice"):
        PolicyAgent(make_task("PlasticRNN/CueChoice-v0"), model.policy)
