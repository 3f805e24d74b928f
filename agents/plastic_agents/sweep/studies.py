"""Studies: comparisons of plasticity rules and other networks on a task, each with the same search budget.

`STUDIES` has the studies of this project by name; ``plastic-rnn reproduce`` runs them. A rule of your own joins them as
one more method: ``replace(study, methods={"mine": Method(NetworkConfig("mine"))})``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from plastic_agents.models.config import NO_PLASTICITY, NetworkConfig
from plastic_agents.models.plastic.update import Plasticity
from plastic_agents.training.recipes import (
    BANDIT_TRAINING,
    CUE_CHOICE_TRAINING,
    CUE_REWARD_METHODS,
    CUE_REWARD_PPO_TRAINING,
    GLYPHS_ENCODER,
    GLYPHS_PPO_TRAINING,
    GLYPHS_TRAINING,
    HARLOW_TRAINING,
    REGRESSION_TRAINING,
    REINFORCEMENT_RECIPES,
    REPRODUCTION_TRAINING,
    STUDY_TRAINING,
    ReinforcementRecipe,
    SupervisedRecipe,
)
from plastic_agents.training.reinforcement_config import ReinforcementConfig
from plastic_agents.training.supervised_config import Curriculum, SupervisedConfig
from plastic_envs import make_task


@dataclass(frozen=True)
class Method:
    """A network of a study, with the settings that its search tries.

    Attributes:
        network: the network.
        space: distributions by the path of a setting, as in `plastic_agents.sweep.search.Search`; none for a method
            without a search.
        settings: settings of training that differ from those of the study, such as ``{"learning_rate": 1e-2}``.
        full_search: whether the trials of its search have all steps of training, instead of those of the study.
    """

    network: NetworkConfig
    space: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    full_search: bool = False


@dataclass(frozen=True)
class Study:
    """A comparison of methods on a task.

    For each method, a search tries ``trials`` settings with `steps_of_search` steps and ``search_seed``. The settings
    with the best score on validation episodes then train with all steps and each of ``final_seeds``, and are scored on
    test episodes. A study whose methods have no search space trains them with the settings that they have.

    Attributes:
        title: what the study compares.
        task: id of an environment.
        methods: the methods by name.
        task_arguments: keyword arguments of the task that differ from its defaults.
        training: settings of training; those of a method's search take their place.
        search_steps: steps of a trial of the search.
        trials: number of settings that the search of a method tries.
        search_seed: training seed of the search.
        final_seeds: training seeds of the final trials.
        settings_from: name of a study with the same methods and a search, of which each method takes the chosen
            settings instead of a search of its own; None for a search. The networks may differ in their encoders.
        about: what a reader of its page should know besides.
    """

    title: str
    task: str
    methods: Mapping[str, Method]
    task_arguments: Mapping[str, Any] = field(default_factory=dict)
    training: SupervisedConfig | ReinforcementConfig = field(default_factory=SupervisedConfig)
    search_steps: int = 750
    trials: int = 10
    search_seed: int = 100
    final_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    settings_from: str | None = None
    about: str = ""

    @property
    def is_searched(self) -> bool:
        """Whether the settings of the methods come from a search in this study."""
        return self.settings_from is None and any(method.space for method in self.methods.values())

    @property
    def oracle_name(self) -> str:
        """`plastic_envs.Task.oracle_name` of the task."""
        return make_task(self.task, **self.task_arguments).oracle_name

    @property
    def steps(self) -> int:
        """Number of steps of a final trial: of the optimiser, or with reinforcement learning of all environments."""
        training = self.training
        return training.steps if isinstance(training, SupervisedConfig) else training.total_timesteps

    def steps_of_search(self, method: str) -> int:
        """Return the number of steps of a trial of the search of a method."""
        return self.steps if self.methods[method].full_search else self.search_steps

    @property
    def steps_setting(self) -> str:
        """The setting for the number of steps, by path."""
        return "training.steps" if isinstance(self.training, SupervisedConfig) else "training.total_timesteps"

    def recipe(self, method: str) -> SupervisedRecipe | ReinforcementRecipe:
        """Return the recipe of a method before its search.

        Raises:
            ValueError: the study has no such method.
        """
        if method not in self.methods:
            raise ValueError(f"method must be one of {', '.join(self.methods)}, got {method!r}")
        network, training = self.methods[method].network, replace(self.training, **self.methods[method].settings)
        if isinstance(training, SupervisedConfig):
            return SupervisedRecipe(self.task, self.task_arguments, network, training)
        return ReinforcementRecipe(self.task, self.task_arguments, network, training)


_RATE = {"training.learning_rate": "log:1e-3,2e-2"}
_PLASTIC = {
    **_RATE,
    "network.cell": "choice:rnn,tanh_rnn",
    # None: the rule's default.
    "network.plasticity.layers": "choice:None,('readout',)",
}
_LIMITED = {
    **_PLASTIC,
    "network.plasticity.max_norm": "choice:1.0,10.0",
    "network.plasticity.decay": "choice:None,0.02,0.05",
}
_CONTROL_SPACE = {"training.learning_rate": "log:1e-3,5e-2", "training.max_gradient_norm": "choice:1.0,10.0"}
_LINEAR_SPACE = {**_RATE, "network.hidden_size": "choice:16,32,64"}
_SPACES = {
    **dict.fromkeys(("hebbian", "gradient", "oja", "bcm", "retroactive"), _LIMITED),
    **dict.fromkeys(("delta", "gated_delta", "longhorn", "self_referential"), _PLASTIC),
    "rls": {**_RATE, "network.cell": "choice:rnn,tanh_rnn", "network.plasticity.decay": "choice:0.0,0.01"},
}
# Networks without plasticity, with about as many parameters as those with plasticity, or more.
_CONTROLS = {
    "lstm": NetworkConfig(NO_PLASTICITY, "lstm", hidden_size=48),
    "gru": NetworkConfig(NO_PLASTICITY, "gru", hidden_size=56),
    "rnn": NetworkConfig(NO_PLASTICITY, "rnn", hidden_size=96),
    "attention": NetworkConfig(NO_PLASTICITY, "attention", hidden_size=32, n_layers=2),
}
METHODS: Mapping[str, Method] = {
    **{rule: Method(NetworkConfig(rule, hidden_size=64), space) for rule, space in _SPACES.items()},
    **{name: Method(network, _RATE) for name, network in _CONTROLS.items()},
}
"""The methods of the main studies, by name: all plasticity rules, and controls without plasticity."""
# Cheap controls, which learn little in these tasks in as few steps as the searches of other networks have.
_FULL_SEARCHES = {
    **METHODS,
    **{name: Method(_CONTROLS[name], _CONTROL_SPACE, full_search=True) for name in ("lstm", "gru", "rnn")},
}
_REGRESSION = "PlasticRNN/FewShotRegression-v0"
_MLP_REGRESSION = "PlasticRNN/FewShotRegressionMLP-v0"


def _policies(space: Mapping[str, str]) -> dict[str, Method]:
    """Return the methods as policies, whose searches also try ``space``."""
    # With plasticity in the readout only, no policy learned more than to follow the last outcome.
    return {
        name: replace(
            method,
            space={
                **{path: values for path, values in method.space.items() if path != "network.plasticity.layers"},
                **space,
            },
        )
        for name, method in METHODS.items()
    }


_CUE_REWARD = "PlasticRNN/CueReward-v0"
_CUE_CHOICE = "PlasticRNN/CueChoice-v0"
_BANDIT = "PlasticRNN/Bandit-v0"
_HARLOW = "PlasticRNN/Harlow-v0"
_REPRODUCTION = "PlasticRNN/SequenceReproduction-v0"
_CLASSIFICATION = "PlasticRNN/FewShotClassification-v0"
_POLICIES = _policies({"training.ent_coef": "choice:0.05,0.1"})

_MAIN_STUDIES = {
    "cue-reward": Study("CueReward", _CUE_REWARD, _FULL_SEARCHES, training=STUDY_TRAINING),
    "regression": Study("Linear regression from 20 points", _REGRESSION, _FULL_SEARCHES, training=REGRESSION_TRAINING),
    "regression-10": Study(
        "Linear regression from 10 points",
        _REGRESSION,
        _FULL_SEARCHES,
        {"n_support": 10},
        REGRESSION_TRAINING,
        settings_from="regression",
    ),
    **{
        f"regression-linear-{n_support}": Study(
            f"Linear regression from {n_support} points, without recurrence",
            _REGRESSION,
            {"rls": Method(NetworkConfig("rls", "linear", plasticity=Plasticity(decay=0.0)), _LINEAR_SPACE)},
            {"n_support": n_support},
            REGRESSION_TRAINING,
            search_steps=REGRESSION_TRAINING.steps,
            about="The cell is `linear`, which has neither a nonlinearity nor recurrence: the fast weight of the "
            "readout is the network's only memory.",
        )
        for n_support in (20, 10)
    },
    "regression-mlp": Study(
        "Regression of MLPs from 20 points", _MLP_REGRESSION, _FULL_SEARCHES, training=REGRESSION_TRAINING
    ),
    "regression-mlp-10": Study(
        "Regression of MLPs from 10 points",
        _MLP_REGRESSION,
        _FULL_SEARCHES,
        {"n_support": 10},
        REGRESSION_TRAINING,
        settings_from="regression-mlp",
    ),
    "reproduction": Study(
        "Reproduction of 5 values after a delay of 20",
        _REPRODUCTION,
        METHODS,
        {"length": 5, "delay": 20},
        REPRODUCTION_TRAINING,
    ),
    "copy": Study(
        "Copy of 100 vectors of 10 values",
        _REPRODUCTION,
        {
            name: replace(method, network=replace(method.network, hidden_size=2 * method.network.hidden_size))
            for name, method in METHODS.items()
        },
        {"length": 100, "delay": 0, "value_size": 10},
        replace(REGRESSION_TRAINING, curriculum=Curriculum("length", first=1)),
        search_steps=500,
        trials=6,
        final_seeds=(0, 1, 2),
        about="The task is the copy task of Continuous Memory Machines (arXiv 2610.07907, 2026). The length of the "
        "sequence grows during training. Networks are twice as wide as in the other studies.",
    ),
    "glyphs": Study(
        "One-shot classification of glyphs",
        _CLASSIFICATION,
        {
            name: replace(method, network=replace(method.network, encoder=GLYPHS_ENCODER))
            for name, method in _FULL_SEARCHES.items()
        },
        training=GLYPHS_TRAINING,
        settings_from="cue-reward",
        about="All networks have an encoder of the same kind, a Conv-4 with 32 channels that is pretrained to classify "
        "the training characters and then frozen. The test characters are new.",
    ),
    "cue-choice": Study(
        "CueChoice, by PPO",
        _CUE_CHOICE,
        _POLICIES,
        training=CUE_CHOICE_TRAINING,
        # For the first 100 000 steps or more, the scores of all settings are the same.
        search_steps=250_000,
        trials=8,
        about="The bonus for entropy falls to zero over the training.",
    ),
    "cue-reward-ppo": Study(
        "CueReward, by PPO",
        _CUE_REWARD,
        _policies({}),
        training=CUE_REWARD_PPO_TRAINING,
        search_steps=150_000,
        trials=8,
        about="A tenth of an episode's return is minus the mean squared error of an answer.",
    ),
    "glyphs-ppo": Study(
        "One-shot classification of glyphs, by PPO",
        _CLASSIFICATION,
        {
            name: Method(
                replace(network, encoder=GLYPHS_ENCODER),
                {**_RATE, "training.ent_coef": "choice:0.3,1.0"},
            )
            for name, (network, *_) in CUE_REWARD_METHODS.items()
        },
        training=GLYPHS_PPO_TRAINING,
        search_steps=200_000,
        trials=8,
        about="The networks and encoders are those of [glyphs](glyphs.md), so the search tries learning rates and "
        "bonuses for entropy only. The reward tells whether an answer was right. The bonus for entropy falls to zero "
        "over the training.",
    ),
    "bandit": Study(
        "Bandit, by PPO",
        _BANDIT,
        # An arm that is tried once more pays in later trials, so the horizon may matter.
        _policies({"training.ent_coef": "choice:0.05,0.1", "training.gamma": "choice:0.9,0.99"}),
        training=BANDIT_TRAINING,
        search_steps=250_000,
        trials=8,
    ),
    "harlow": Study(
        "Harlow's learning sets, by PPO",
        _HARLOW,
        _POLICIES,
        training=HARLOW_TRAINING,
        settings_from="cue-choice",
    ),
}


def spaced(number: int) -> str:
    """Return a number of five digits or more with its thousands apart, on one line."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if number >= 10_000 else str(number)


def _longer(name: str, methods: Sequence[str], steps: int, final_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Study:
    """Return a study of some methods of another one, with its chosen settings and more steps."""
    study = _MAIN_STUDIES[name]
    training: Any = study.training  # the settings of either kind
    return replace(
        study,
        title=f"{study.title}, {spaced(steps)} steps",
        methods={method: study.methods[method] for method in methods},
        training=replace(training, **{study.steps_setting.removeprefix("training."): steps}),
        final_seeds=final_seeds,
        settings_from=study.settings_from or name,
    )


# The settings of the paper: those of `SupervisedConfig` and `Plasticity` that are not here are their defaults. Plain
# networks are 1.5 times as wide, and so have about as many parameters.
_PAPER_SEEDS = (0, 1, 2, 3)
_PAPER_TRAINING = SupervisedConfig(
    steps=5000, learning_rate=1e-3, schedule="constant", evaluate_every=500, evaluation_episodes=1000
)
_PAPER_METHODS = {
    name: Method(NetworkConfig(rule, cell, hidden_size=192 if rule == NO_PLASTICITY else 128))
    for cell, names in {
        "rnn": ("hebbian", "gradient", "rnn"),
        "lstm": ("hebbian-lstm", "gradient-lstm", "lstm"),
    }.items()
    for name, rule in zip(names, ("hebbian", "gradient", NO_PLASTICITY), strict=True)
}
_PAPER_RNNS = {name: _PAPER_METHODS[name] for name in ("hebbian", "gradient", "rnn")}
_PAPER_LSTMS = {name: method for name, method in _PAPER_METHODS.items() if name not in _PAPER_RNNS}
_SCORED_SUPPORT = {"score_support": True}
_HALF = "The authors train for 10 000 steps."


def _paper_regression(title: str, task: str, arguments: Mapping[str, Any], n_seeds: int = 2) -> Study:
    """Return a study with the paper's settings, whose loss counts the shown points too and whose score does not."""
    return Study(
        title,
        task,
        _PAPER_METHODS,
        {**arguments, **_SCORED_SUPPORT},
        replace(_PAPER_TRAINING, evaluation_arguments={"score_support": False}),
        final_seeds=_PAPER_SEEDS[:n_seeds],
        about=f"{_HALF} The loss of training counts the steps at which points are shown too; the scores do not.",
    )


def _paper_cue_reward(title: str, methods: Mapping[str, Method], n_seeds: int) -> Study:
    return Study(
        title,
        _CUE_REWARD,
        methods,
        _SCORED_SUPPORT,
        _PAPER_TRAINING,
        final_seeds=_PAPER_SEEDS[:n_seeds],
        about="Loss and scores count all 20 steps, as the authors' do. They train for 20 000 steps, and for 5000 in "
        "the example of their code.",
    )


def _paper_reproduction(length: int, delay: int) -> Study:
    return Study(
        f"Reproduction of {length} values after a delay of {delay}, with the paper's settings",
        _REPRODUCTION,
        _PAPER_RNNS,
        {"length": length, "delay": delay},
        _PAPER_TRAINING,
        final_seeds=_PAPER_SEEDS[: 2 if length <= 10 and delay <= 20 else 1],  # a step's time grows with the episode
        about=_HALF,
    )


_ABLATIONS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "": ({}, {}),
    "-unmodulated": ({"modulated": False}, {}),
    **{f"-rate-{rate}": ({"rate": rate}, {}) for rate in (0.0, 0.05, 0.1, 0.4)},
    **{f"-extra-{extra}": ({"extra": extra}, {}) for extra in (0, 8, 16)},
    **{f"-alpha-{alpha}": ({"alpha_init": alpha}, {}) for alpha in ("absent", "+1", "-1")},
    "-norm-100": ({"max_norm": 100.0}, {}),
    **{f"-learning-rate-{rate}": ({}, {"learning_rate": rate}) for rate in (0.01, 0.0003)},
}

_PAPER_STUDIES = {
    "paper-cue-reward": _paper_cue_reward("CueReward with the paper's settings", _PAPER_RNNS, n_seeds=4),
    # A plastic LSTM takes three times as long as a plastic RNN.
    "paper-cue-reward-lstm": _paper_cue_reward("CueReward with the paper's settings, LSTMs", _PAPER_LSTMS, n_seeds=1),
    "paper-regression": _paper_regression(
        "Linear regression from 20 points, the paper's settings", _REGRESSION, {}, n_seeds=3
    ),
    "paper-regression-10": _paper_regression(
        "Linear regression from 10 points, the paper's settings", _REGRESSION, {"n_support": 10}
    ),
    "paper-regression-mlp": _paper_regression(
        "Regression of MLPs from 20 points, the paper's settings", _MLP_REGRESSION, {}
    ),
    "paper-regression-mlp-10": _paper_regression(
        "Regression of MLPs from 10 points, the paper's settings", _MLP_REGRESSION, {"n_support": 10}
    ),
    **{f"paper-delay-{delay}": _paper_reproduction(5, delay) for delay in (0, 10, 20, 40, 60)},
    **{f"paper-length-{length}": _paper_reproduction(length, 0) for length in (10, 20, 40)},
    "paper-ablations": Study(
        "Ablations on CueReward",
        _CUE_REWARD,
        {
            f"{rule}{name}": Method(
                NetworkConfig(rule, hidden_size=64, plasticity=Plasticity(**plasticity)), {}, training
            )
            for rule in ("hebbian", "gradient")
            for name, (plasticity, training) in _ABLATIONS.items()
        },
        _SCORED_SUPPORT,
        replace(_PAPER_TRAINING, steps=3000, evaluation_arguments={"score_support": False}),
        final_seeds=(0, 1, 2),
        about="Each method differs in one setting from the paper's, which are those of `hebbian` and `gradient`, with "
        "64 units and 3000 steps instead of 128 and 20 000. The loss of training counts all 20 steps; the scores count "
        "queries only.",
    ),
}


_CUE_CHOICE_RECIPE = REINFORCEMENT_RECIPES["cue-choice-hebbian"]
_WITHOUT: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "": ({}, {}),
    "-no-prediction": ({}, {"reward_prediction_coef": 0.0}),
    "-no-entropy": ({}, {"ent_coef": 0.0}),
    "-gamma-0.99": ({}, {"gamma": 0.99}),
    "-none": ({}, {"reward_prediction_coef": 0.0, "ent_coef": 0.0, "gamma": 0.99}),
    "-norm-1": ({"max_norm": 1.0}, {}),
}

STUDIES: Mapping[str, Study] = {
    **_MAIN_STUDIES,
    "cue-choice-ablations": Study(
        "Ablations on CueChoice, by PPO",
        _CUE_CHOICE,
        {
            f"hebbian{name}": Method(
                replace(
                    _CUE_CHOICE_RECIPE.network, plasticity=replace(_CUE_CHOICE_RECIPE.network.plasticity, **plasticity)
                ),
                {},
                training,
            )
            for name, (plasticity, training) in _WITHOUT.items()
        },
        training=_CUE_CHOICE_RECIPE.training,
        final_seeds=(0, 1, 2),
        about="Each method differs from `hebbian`, which has the settings that the search of "
        "[cue-choice](cue-choice.md) chose: without the auxiliary loss that predicts rewards, without the bonus for "
        "entropy, with a longer horizon, without all three (`hebbian-none`), or with updates limited to a norm of 1 "
        "instead of 10.",
    ),
    "cue-reward-5000": _longer("cue-reward", ("hebbian", "gradient", "oja", "rls"), 5000),
    # Six to ten times as many steps as in the main study.
    "cue-reward-30000": _longer("cue-reward", tuple(_CONTROLS), 30_000, (0, 1, 2)),
    "regression-20000": _longer("regression", tuple(_CONTROLS), 20_000, (0, 1, 2)),
    "regression-10-10000": _longer("regression-10", ("rls",), 10_000, (0, 1, 2)),
    "cue-choice-3000000": _longer("cue-choice", ("hebbian", "gradient", "lstm"), 3_000_000, (0, 1, 2)),
    **_PAPER_STUDIES,
}
