"""Recipes: settings with which networks learn well, for each task and plasticity rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.image_encoders import EncoderConfig
from plastic_agents.models.plastic.update import Plasticity
from plastic_agents.training.reinforcement_config import ReinforcementConfig
from plastic_agents.training.supervised_config import Curriculum, SupervisedConfig


@dataclass(frozen=True)
class SupervisedRecipe:
    """The settings of a run of supervised learning.

    Attributes:
        task: id of an environment.
        task_arguments: keyword arguments of the task that differ from its defaults.
        network: the network.
        training: settings of training.
    """

    task: str
    task_arguments: Mapping[str, Any] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: SupervisedConfig = field(default_factory=SupervisedConfig)


@dataclass(frozen=True)
class ReinforcementRecipe:
    """The settings of a run of reinforcement learning.

    Attributes:
        task: id of an environment.
        task_arguments: keyword arguments of the task that differ from its defaults.
        network: the policy's core.
        training: settings of training.
    """

    task: str
    task_arguments: Mapping[str, Any] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: ReinforcementConfig = field(default_factory=ReinforcementConfig)


_CUE_REWARD = "PlasticRNN/CueReward-v0"
_CUE_CHOICE = "PlasticRNN/CueChoice-v0"
_BANDIT = "PlasticRNN/Bandit-v0"
_HARLOW = "PlasticRNN/Harlow-v0"
_REPRODUCTION = "PlasticRNN/SequenceReproduction-v0"
_REGRESSION = "PlasticRNN/FewShotRegression-v0"
_MLP_REGRESSION = "PlasticRNN/FewShotRegressionMLP-v0"
_CLASSIFICATION = "PlasticRNN/FewShotClassification-v0"

# The authors limit an update to a norm of 1. On tasks with many associations per step, networks with a limit of 10 need
# a third of the training steps; without an effective limit (100), training diverges at these learning rates.
_STRONG = Plasticity(max_norm=10.0)
# Memories last longer if their decay rate is lower than their write rate.
_STRONG_AND_LASTING = Plasticity(max_norm=10.0, decay=0.05)

# Features that discriminate the training classes transfer to other classes, and make the memory useful from its first
# training step. All networks use the same encoder.
GLYPHS_ENCODER = EncoderConfig("conv-4", channels=32, pretraining=800, frozen=True)
_LARGER_ENCODER = replace(GLYPHS_ENCODER, channels=64)
_NEW_CLASSES = {"split": "test"}

# The authors' settings for one-shot classification; those that they do not report are MetaOptNet's.
_PHOTOGRAPHS = {"augmentation": "crop-flip"}
_CIFAR_FS = {"source": "cifar-fs", "image_size": 32, **_PHOTOGRAPHS}
_MINI_IMAGENET = {"source": "mini-imagenet", "image_size": 84, **_PHOTOGRAPHS}
_AUTHORS_NETWORK = NetworkConfig(hidden_size=256, encoder=EncoderConfig("conv-4"))
_AUTHORS_TRAINING = SupervisedConfig(
    steps=40_000,
    learning_rate=1e-3,
    weight_decay=5e-4,
    evaluate_every=2000,
    evaluation_arguments={"split": "test", "augmentation": "none"},
    checkpoint_every=1000,
)


def _as_authors(name: str, arguments: Mapping[str, Any]) -> dict[str, SupervisedRecipe]:
    networks = {
        "hebbian": replace(_AUTHORS_NETWORK, rule="hebbian"),
        "gradient": _AUTHORS_NETWORK,
        "lstm": replace(_AUTHORS_NETWORK, rule="none", cell="lstm", hidden_size=384),
    }
    return {
        f"{name}-{rule}": SupervisedRecipe(_CLASSIFICATION, arguments, network, _AUTHORS_TRAINING)
        for rule, network in networks.items()
    }


# The training of the studies (`plastic_agents.sweep.studies`), whose searches chose the settings of the methods below.
STUDY_TRAINING = SupervisedConfig(
    steps=3000, final_learning_rate=0.02, max_gradient_norm=1.0, evaluate_every=500, evaluation_episodes=1000
)
REGRESSION_TRAINING = replace(STUDY_TRAINING, steps=2000)
# Networks learn memory over a long delay only if the delay grows during training.
REPRODUCTION_TRAINING = replace(STUDY_TRAINING, curriculum=Curriculum("delay"))
GLYPHS_TRAINING = replace(STUDY_TRAINING, steps=1500, evaluation_arguments=_NEW_CLASSES)
# By method: the network, the learning rate and, if it is not 1, the limit of the norm of gradients.
CUE_REWARD_METHODS: Mapping[str, tuple[Any, ...]] = {
    "hebbian": (NetworkConfig("hebbian", "tanh_rnn", 64, _STRONG_AND_LASTING), 0.01382),
    "gradient": (NetworkConfig("gradient", "tanh_rnn", 64, _STRONG_AND_LASTING), 0.01382),
    "oja": (NetworkConfig("oja", "tanh_rnn", 64, _STRONG_AND_LASTING), 0.01382),
    "bcm": (NetworkConfig("bcm", "tanh_rnn", 64, _STRONG_AND_LASTING), 0.01382),
    "delta": (NetworkConfig("delta", "rnn", 64), 0.006754),
    "gated_delta": (NetworkConfig("gated_delta", "rnn", 64), 0.006754),
    "longhorn": (NetworkConfig("longhorn", "rnn", 64), 0.006754),
    "rls": (NetworkConfig("rls", "tanh_rnn", 64, Plasticity(decay=0.0)), 0.003674),
    "retroactive": (NetworkConfig("retroactive", "tanh_rnn", 64, _STRONG_AND_LASTING), 0.01382),
    "self_referential": (NetworkConfig("self_referential", "rnn", 64), 0.006754),
    "lstm": (NetworkConfig("none", "lstm", 48), 0.0109),
    "gru": (NetworkConfig("none", "gru", 56), 0.02016),
    "rnn": (NetworkConfig("none", "rnn", 96), 0.001757),
    "attention": (NetworkConfig("none", "attention", 32, n_layers=2), 0.01261),
}
_REGRESSION_METHODS: Mapping[str, tuple[Any, ...]] = {
    "hebbian": (NetworkConfig("hebbian", "rnn", 64, Plasticity(max_norm=10.0, decay=0.02)), 0.003907),
    "gradient": (NetworkConfig("gradient", "tanh_rnn", 64, _STRONG_AND_LASTING), 0.01382),
    "delta": (NetworkConfig("delta", "rnn", 64), 0.006754),
    "gated_delta": (NetworkConfig("gated_delta", "tanh_rnn", 64), 0.005596),
    "longhorn": (NetworkConfig("longhorn", "tanh_rnn", 64), 0.005596),
    "rls": (NetworkConfig("rls", "tanh_rnn", 64, Plasticity(decay=0.0)), 0.01382),
    "lstm": (NetworkConfig("none", "lstm", 48), 0.009476),
    "gru": (NetworkConfig("none", "gru", 56), 0.005988, 10.0),
    "rnn": (NetworkConfig("none", "rnn", 96), 0.005634, 10.0),
    "attention": (NetworkConfig("none", "attention", 32, n_layers=2), 0.01261),
}
_LINEAR_REGRESSION_METHODS = {"rls": (NetworkConfig("rls", "linear", 32, Plasticity(decay=0.0)), 0.009977)}
_LINEAR_REGRESSION_10_METHODS = {"rls": (NetworkConfig("rls", "linear", 64, Plasticity(decay=0.0)), 0.003938)}
_MLP_REGRESSION_METHODS = {"rls": (NetworkConfig("rls", "tanh_rnn", 64, Plasticity(decay=0.0)), 0.01382)}
_REPRODUCTION_METHODS = {
    "hebbian": (NetworkConfig("hebbian", "rnn", 64, Plasticity(max_norm=10.0, decay=0.02)), 0.003907),
    "gradient": (
        NetworkConfig("gradient", "tanh_rnn", 64, Plasticity(max_norm=10.0, decay=0.02, layers=("readout",))),
        0.01449,
    ),
    "rls": (NetworkConfig("rls", "rnn", 64, Plasticity(decay=0.0)), 0.006265),
    "lstm": (NetworkConfig("none", "lstm", 48), 0.01261),
}


def _of_study(
    study: str,
    task: str,
    arguments: Mapping[str, Any],
    methods: Mapping[str, tuple[Any, ...]],
    training: SupervisedConfig,
) -> dict[str, SupervisedRecipe]:
    """Return the recipes of a study's methods, whose names begin with the study's."""
    recipes = {}
    for method, (network, learning_rate, *limit) in methods.items():
        settings: dict[str, Any] = {"learning_rate": learning_rate}
        if limit:
            settings["max_gradient_norm"] = limit[0]
        recipes[f"{study}-{method}"] = SupervisedRecipe(task, arguments, network, replace(training, **settings))
    return recipes


SUPERVISED_RECIPES: Mapping[str, SupervisedRecipe] = {
    **_of_study("cue-reward", _CUE_REWARD, {}, CUE_REWARD_METHODS, STUDY_TRAINING),
    **_of_study(
        "reproduction", _REPRODUCTION, {"length": 5, "delay": 20}, _REPRODUCTION_METHODS, REPRODUCTION_TRAINING
    ),
    **_of_study("regression", _REGRESSION, {}, _REGRESSION_METHODS, REGRESSION_TRAINING),
    **_of_study(
        "regression-linear-20", _REGRESSION, {"n_support": 20}, _LINEAR_REGRESSION_METHODS, REGRESSION_TRAINING
    ),
    **_of_study(
        "regression-linear-10", _REGRESSION, {"n_support": 10}, _LINEAR_REGRESSION_10_METHODS, REGRESSION_TRAINING
    ),
    **_of_study("regression-mlp", _MLP_REGRESSION, {}, _MLP_REGRESSION_METHODS, REGRESSION_TRAINING),
    # The settings that the search of CueReward chose.
    **_of_study(
        "glyphs",
        _CLASSIFICATION,
        {},
        {
            method: (replace(network, encoder=GLYPHS_ENCODER), *settings)
            for method, (network, *settings) in CUE_REWARD_METHODS.items()
        },
        GLYPHS_TRAINING,
    ),
    **_as_authors("cifar-fs", _CIFAR_FS),
    **_as_authors("mini-imagenet", _MINI_IMAGENET),
}
"""The recipes of supervised learning, by name."""

# An LSTM has a longer memory than torch's plain RNN; this one has about as many parameters as the plastic RNNs.
_LSTM = NetworkConfig(rule="none", cell="lstm", hidden_size=92)
# Episodes are short, and each rollout consists of new episodes, so one pass with a high learning rate is enough.
_ONE_PASS = ReinforcementConfig(
    n_epochs=1,
    batch_size=None,
    learning_rate=3e-3,
    final_learning_rate=0.05,
    gamma=0.9,
    ent_coef=0.1,
    max_grad_norm=5.0,
    log_std_init=-1.0,
    outputs="readout",
)
# Rewards are immediate, and actions have no effect on later steps. Several passes over each rollout save environment
# steps.
CUE_REWARD_PPO_TRAINING = replace(
    _ONE_PASS,
    total_timesteps=500_000,
    n_epochs=4,
    batch_size=640,
    gamma=0.0,
    ent_coef=0.0,
    evaluate_every=100_000,
    evaluation_episodes=1000,
)
# By method: the network and the learning rate that the search of the study chose.
_CUE_REWARD_POLICIES = {
    "hebbian": (NetworkConfig("hebbian", "rnn", 64, Plasticity(max_norm=10.0, decay=0.02)), 0.009566),
    "gradient": (NetworkConfig("gradient", "rnn", 64, Plasticity(max_norm=10.0, decay=0.02)), 0.009566),
    "lstm": (NetworkConfig("none", "lstm", 48), 0.00281),
}
# Predicting the rewards of actions trains the memory on which choices depend.
_FOUR_PASSES = replace(_ONE_PASS, n_epochs=4, reward_prediction_coef=10.0)
CUE_CHOICE_TRAINING = replace(
    _FOUR_PASSES, total_timesteps=500_000, batch_size=768, evaluate_every=100_000, evaluation_episodes=1000
)
# By method: the network, the learning rate and the bonus for entropy that the search of the study chose.
_CUE_CHOICE_METHODS = {
    "hebbian": (NetworkConfig("hebbian", "rnn", 64, _STRONG_AND_LASTING), 0.005299, 0.1),
    "gradient": (NetworkConfig("gradient", "rnn", 64, Plasticity(max_norm=10.0, decay=0.02)), 0.003878, 0.05),
    "oja": (NetworkConfig("oja", "rnn", 64, _STRONG_AND_LASTING), 0.005299, 0.1),
    "delta": (NetworkConfig("delta", "rnn", 64), 0.006228, 0.05),
    "gated_delta": (NetworkConfig("gated_delta", "rnn", 64), 0.006754, 0.05),
    "rls": (NetworkConfig("rls", "tanh_rnn", 64, Plasticity(decay=0.01)), 0.002194, 0.05),
    "lstm": (NetworkConfig("none", "lstm", 48), 0.009566, 0.1),
    "rnn": (NetworkConfig("none", "rnn", 96), 0.003938, 0.1),
}
BANDIT_TRAINING = replace(CUE_CHOICE_TRAINING, batch_size=1280)
# By method: the network, the learning rate, the bonus for entropy and the discount that the search of the study chose.
_BANDIT_METHODS = {
    "hebbian": (NetworkConfig("hebbian", "tanh_rnn", 64, Plasticity(max_norm=10.0, decay=0.02)), 0.003758, 0.1, 0.9),
    "gradient": (NetworkConfig("gradient", "tanh_rnn", 64, _STRONG), 0.01389, 0.1, 0.99),
    "lstm": (NetworkConfig("none", "lstm", 48), 0.006228, 0.05, 0.9),
}
_HEBBIAN = NetworkConfig(rule="hebbian", plasticity=_STRONG)
_FROM_RIGHT_ANSWERS = replace(
    _ONE_PASS,
    total_timesteps=500_000,
    gamma=0.0,
    reward_prediction_coef=10.0,
    evaluate_every=50_000,
    evaluation_arguments=_NEW_CLASSES,
)
# With standardised rewards and a strong bonus for entropy, policies with the gradient rule leave chance too.
GLYPHS_PPO_TRAINING = replace(
    _FROM_RIGHT_ANSWERS,
    n_epochs=4,
    normalize_predicted_rewards=True,
    evaluate_every=100_000,
    evaluation_episodes=1000,
)
_FROM_STANDARDISED_ANSWERS = replace(GLYPHS_PPO_TRAINING, total_timesteps=1_000_000, learning_rate=4e-3, ent_coef=1.0)
HARLOW_TRAINING = replace(CUE_CHOICE_TRAINING, total_timesteps=200_000, batch_size=384, evaluate_every=20_000)

REINFORCEMENT_RECIPES: Mapping[str, ReinforcementRecipe] = {
    **{
        f"cue-choice-{method}": ReinforcementRecipe(
            _CUE_CHOICE, {}, network, replace(CUE_CHOICE_TRAINING, learning_rate=learning_rate, ent_coef=ent_coef)
        )
        for method, (network, learning_rate, ent_coef) in _CUE_CHOICE_METHODS.items()
    },
    **{
        f"cue-reward-{method}": ReinforcementRecipe(
            _CUE_REWARD, {}, network, replace(CUE_REWARD_PPO_TRAINING, learning_rate=learning_rate)
        )
        for method, (network, learning_rate) in _CUE_REWARD_POLICIES.items()
    },
    **{
        f"bandit-{method}": ReinforcementRecipe(
            _BANDIT,
            {},
            network,
            replace(BANDIT_TRAINING, learning_rate=learning_rate, ent_coef=ent_coef, gamma=gamma),
        )
        for method, (network, learning_rate, ent_coef, gamma) in _BANDIT_METHODS.items()
    },
    # The settings that the search of CueChoice chose.
    **{
        f"harlow-{method}": ReinforcementRecipe(
            _HARLOW, {}, network, replace(HARLOW_TRAINING, learning_rate=learning_rate, ent_coef=ent_coef)
        )
        for method, (network, learning_rate, ent_coef) in _CUE_CHOICE_METHODS.items()
    },
    "glyphs-hebbian": ReinforcementRecipe(
        _CLASSIFICATION, {}, replace(_HEBBIAN, encoder=_LARGER_ENCODER), _FROM_RIGHT_ANSWERS
    ),
    "glyphs-gradient": ReinforcementRecipe(
        _CLASSIFICATION,
        {},
        NetworkConfig("gradient", "tanh_rnn", 64, _STRONG_AND_LASTING, encoder=GLYPHS_ENCODER),
        _FROM_STANDARDISED_ANSWERS,
    ),
    "glyphs-lstm": ReinforcementRecipe(
        _CLASSIFICATION, {}, replace(_LSTM, encoder=_LARGER_ENCODER), _FROM_RIGHT_ANSWERS
    ),
}
"""The recipes of reinforcement learning, by name."""
