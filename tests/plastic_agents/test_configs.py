"""Validation of configurations: numpy numbers are converted, and wrong types and values are named."""

import math
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plastic_agents import (
    CosineSchedule,
    Curriculum,
    LinearSchedule,
    NetworkConfig,
    Plasticity,
    ReinforcementConfig,
    SupervisedConfig,
)

# Least value of whole numbers; interval of real numbers, with whether its lower end is excluded.
WHOLE = {
    SupervisedConfig: {
        **dict.fromkeys(("steps", "batch_size", "evaluate_every", "evaluation_episodes", "checkpoint_every"), 1),
        "seed": 0,
    },
    ReinforcementConfig: {
        **dict.fromkeys(("total_timesteps", "n_envs", "rollout_episodes", "n_epochs", "batch_size"), 1),
        **dict.fromkeys(("evaluate_every", "evaluation_episodes", "checkpoint_every"), 1),
        "seed": 0,
    },
    Curriculum: {"first": 0},
    Plasticity: {"extra": 0},
    CosineSchedule: {},
    LinearSchedule: {},
}
REAL = {
    SupervisedConfig: {
        **dict.fromkeys(("learning_rate", "max_gradient_norm"), (0, math.inf, True)),
        "final_learning_rate": (0, 1, False),
        "weight_decay": (0, math.inf, False),
    },
    ReinforcementConfig: {
        **dict.fromkeys(("learning_rate", "clip_range", "max_grad_norm"), (0, math.inf, True)),
        **dict.fromkeys(("ent_coef", "vf_coef", "reward_prediction_coef"), (0, math.inf, False)),
        **dict.fromkeys(("gamma", "gae_lambda", "final_learning_rate"), (0, 1, False)),
        "log_std_init": (-math.inf, math.inf, False),
    },
    Curriculum: {"growth": (0, 1, True)},
    Plasticity: {"rate": (0, 1, False), "decay": (0, 1, False), "max_norm": (0, math.inf, True)},
    **dict.fromkeys((CosineSchedule, LinearSchedule), dict.fromkeys(("start", "end"), (0, math.inf, False))),
}
CHOICES = {
    SupervisedConfig: ("schedule",),
    ReinforcementConfig: ("algorithm", "outputs"),
    Curriculum: (),
    Plasticity: ("alpha_init",),
    CosineSchedule: (),
    LinearSchedule: (),
}
NEEDED = {Curriculum: {"argument": "delay"}, CosineSchedule: {"start": 0.1}, LinearSchedule: {"start": 0.1}}
FLAGS = [(Plasticity, "modulated"), (ReinforcementConfig, "normalize_predicted_rewards")]
OTHERS = {"curriculum", "evaluation_arguments", "argument", "layers", *(name for _, name in FLAGS)}
MAY_BE_INFINITE = [(Plasticity, "max_norm")]
MAY_BE_NONE = [(ReinforcementConfig, "batch_size")]
WHOLE_FIELDS = [(class_, name) for class_, names in WHOLE.items() for name in names]
REAL_FIELDS = [(class_, name) for class_, names in REAL.items() for name in names]


def make(class_, **arguments):
    return class_(**{**NEEDED.get(class_, {}), **arguments})


@pytest.mark.parametrize("class_", WHOLE)
def test_every_field_is_tested(class_):
    tested = {*WHOLE[class_], *REAL[class_], *CHOICES[class_], *OTHERS}
    assert {field.name for field in fields(class_)} <= tested


@given(st.sampled_from(WHOLE_FIELDS), st.integers(-3, 2**31 - 1), st.sampled_from([int, np.int32, np.int64]))
def test_whole_numbers_are_converted_and_checked(field, value, type_):
    class_, name = field
    if value >= WHOLE[class_][name]:
        stored = getattr(make(class_, **{name: type_(value)}), name)
        assert stored == value
        assert type(stored) is int
    else:
        with pytest.raises(ValueError, match=f"^{name} must be at least {WHOLE[class_][name]}, got"):
            make(class_, **{name: type_(value)})


@given(
    st.sampled_from(REAL_FIELDS),
    st.floats(-2, 2) | st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]),
    st.sampled_from([float, np.float64, np.float32]),
)
@example((Plasticity, "max_norm"), math.inf, np.float32)
def test_real_numbers_are_converted_and_checked(field, value, type_):
    class_, name = field
    low, high, excluded = REAL[class_][name]
    converted = type_(value)
    number = float(converted)
    in_range = math.isfinite(number) and low <= number <= high and not (excluded and number == low)
    if in_range or (field in MAY_BE_INFINITE and number == math.inf):
        stored = getattr(make(class_, **{name: converted}), name)
        assert stored == number
        assert type(stored) is float
    else:
        with pytest.raises(ValueError, match=f"^{name} must be a finite number"):
            make(class_, **{name: converted})


@given(st.sampled_from([*WHOLE_FIELDS, *REAL_FIELDS]), st.booleans() | st.text() | st.sampled_from([[], 1j, b"1"]))
def test_numbers_of_the_wrong_type_are_named(field, value):
    class_, name = field
    with pytest.raises(TypeError, match=rf"^{name} must be .*, got"):
        make(class_, **{name: value})


@pytest.mark.parametrize("field", WHOLE_FIELDS, ids=lambda field: f"{field[0].__name__}.{field[1]}")
@pytest.mark.parametrize("value", [2.0, None, "2"])
def test_whole_numbers_must_be_integers(field, value):
    if value is None and field in MAY_BE_NONE:
        assert getattr(make(field[0], **{field[1]: None}), field[1]) is None
        return
    with pytest.raises(TypeError, match=rf"^{field[1]} must be a whole number .*, got"):
        make(field[0], **{field[1]: value})


@pytest.mark.parametrize(("class_", "name"), [(class_, name) for class_, names in CHOICES.items() for name in names])
def test_unknown_choices_are_named(class_, name):
    with pytest.raises(ValueError, match=rf"^{name} must be one of .*, got 'none of them'"):
        make(class_, **{name: "none of them"})
    with pytest.raises(TypeError, match=rf"^{name} must be one of .*, got 3"):
        make(class_, **{name: 3})


@pytest.mark.parametrize(("class_", "name"), FLAGS)
@pytest.mark.parametrize("value", ["no", 0, 1, None])
def test_flags_are_bools(class_, name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be True or False, got"):
        make(class_, **{name: value})
    assert getattr(make(class_, **{name: np.bool_(False)}), name) is False


@pytest.mark.parametrize("class_", [SupervisedConfig, ReinforcementConfig])
@pytest.mark.parametrize("value", [3, "split", [("split", "test")], {1: 2}])
def test_evaluation_arguments_are_a_mapping(class_, value):
    with pytest.raises(TypeError, match=r"^evaluation_arguments must be a mapping from names to values, got"):
        class_(evaluation_arguments=value)


def test_a_curriculum_of_the_wrong_type_is_named():
    with pytest.raises(TypeError, match=r"^curriculum must be a Curriculum or None, got 'delay'"):
        SupervisedConfig(curriculum="delay")
    with pytest.raises(TypeError, match=r"^argument must be the name of an argument of the task, got 3"):
        Curriculum(3)


@pytest.mark.parametrize(("name", "expected"), [("plasticity", "Plasticity"), ("encoder", "EncoderConfig")])
def test_parts_of_a_network_of_the_wrong_type_are_named(name, expected):
    with pytest.raises(TypeError, match=rf"^{name} must be of class {expected}, got {{'rate': 0.1}}"):
        NetworkConfig(**{name: {"rate": 0.1}})


def test_decay_defaults_to_the_rate():
    assert NetworkConfig("hebbian", plasticity=Plasticity(rate=0.3)).settings.decay == 0.3
    assert NetworkConfig("hebbian", plasticity=Plasticity(rate=0.3, decay=0)).settings.decay == 0
    assert NetworkConfig("delta", plasticity=Plasticity(rate=0.3)).settings.decay == 0


@pytest.mark.parametrize("value", ["readout", (), ("readout", "readout"), ("output",)])
def test_layers_are_kinds_of_layers(value):
    with pytest.raises(ValueError, match=r"^layers must hold one or more of \('input', "):
        Plasticity(layers=value)
    assert Plasticity(layers=["readout", "input"]).layers == ("input", "readout")


@pytest.mark.parametrize("name", ["SupervisedConfig", "ReinforcementConfig"])
def test_configurations_import_no_heavy_dependency(name):
    code = (
        f"import sys, plastic_agents; plastic_agents.{name}(); "
        "print([name for name in ('stable_baselines3', 'tyro', 'matplotlib', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
