"""Train a network with a plasticity rule of your own, and probe it beside the Hebbian rule.

A rule needs one method, `update`. This one also has a state: the running mean of each unit's activity.
"""

import argparse
from dataclasses import replace

import torch
from plastic_agents import (
    SUPERVISED_RECIPES,
    PlasticityRule,
    SupervisedLearner,
    Update,
    comparison_table,
    probe,
    register_rule,
)
from plastic_agents.testing import check_rule
from rich.console import Console


@register_rule("covariance")
class Covariance(PlasticityRule):
    """W <- (1 - d) W + eta alpha ((p - mean of p) (x) (u - mean of u)) (Sejnowski, 1977)."""

    def initial_state(self, parameters, n_in, n_out):
        """Return the running means at the start of an episode."""
        return {"mean_pre": torch.zeros(n_in), "mean_post": torch.zeros(n_out)}

    def update(self, step):
        """Return the change of a layer's fast weight and of the means."""
        pre = step.pre - step.state["mean_pre"]
        post = step.post - step.state["mean_post"]
        means = {"mean_pre": step.state["mean_pre"] + 0.1 * pre, "mean_post": step.state["mean_post"] + 0.1 * post}
        return Update(pre, post, state=means)


def main() -> None:
    """Check the rule, train a network with it and one with the Hebbian rule, and print the table of their probes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="optimiser steps for each network")
    parser.add_argument("--episodes", type=int, default=1000, help="held-out episodes for each intervention")
    arguments = parser.parse_args()

    check_rule(Covariance())
    recipe = SUPERVISED_RECIPES["cue-reward-hebbian"]
    reports = {}
    for rule in ("covariance", "hebbian"):
        training = replace(recipe.training, steps=arguments.steps, evaluation_episodes=arguments.episodes)
        learner = SupervisedLearner(recipe.task, replace(recipe.network, rule=rule), training)
        learner.learn()
        reports[rule] = probe(learner.agent, episodes=arguments.episodes)
    Console().print(comparison_table(reports, title="CueReward"))


if __name__ == "__main__":
    main()
