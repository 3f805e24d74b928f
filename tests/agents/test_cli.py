"""The command, as a person runs it."""

import json

import pytest

from agents import SupervisedLearner
from agents.cli import main
from agents.recipes import POLICY_RECIPES, RECIPES
from plastic_envs import registered_ids
from plastic_envs.images import cifar_fs, mini_imagenet
from tests.plastic_envs.image_files import write_pickles

TINY = [
    *("--training.steps", "4", "--training.batch-size", "4", "--network.hidden-size", "8"),
    *("--training.evaluation-episodes", "4", "--task-arguments", "n_cues=2", "noise=0.05"),
]


TINY_POLICY = [
    *("--training.total-timesteps", "48", "--training.n-envs", "4", "--network.hidden-size", "8"),
    *("--training.evaluation-episodes", "4", "--task-arguments", "n_cues=2", "n_trials=3"),
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    main(["train", "cue-reward-hebbian", "--out", str(folder), *TINY])
    return folder


def test_envs_lists_every_environment_on_a_line_with_its_recipes(capsys):
    main(["envs"])
    lines = capsys.readouterr().out.splitlines()[1:-2]
    assert [line.split()[0] for line in lines] == registered_ids()
    for recipes in (RECIPES, POLICY_RECIPES):
        for name, recipe in recipes.items():
            family = name[: name.index(f"-{recipe.network.rule}")]
            assert [line.split()[0] for line in lines if family in line] == [recipe.task]


def test_evaluate_prints_score_oracle_and_memoryless(run_dir, capsys):
    main(["evaluate", str(run_dir / "checkpoint.pt"), "--episodes", "6"])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("intact", "oracle", "memoryless", "6 held-out episodes"))


def test_probe_prints_every_intervention_and_writes_files(run_dir, tmp_path, capsys):
    main(["probe", str(run_dir / "checkpoint.pt"), "--episodes", "6", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("no writing", "fast weights erased", "twin's hidden state"))
    (report,) = json.loads((tmp_path / "report.json").read_text()).values()
    assert report["task"].startswith("CueReward(n_cues=2, cue_size=14, noise=0.05")
    assert len(json.loads((tmp_path / "trace.json").read_text())["eta"]) == 20
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("adaptation.png", "trace.png"))


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_policies_are_trained_evaluated_and_probed_by_the_same_commands(algo, tmp_path, capsys):
    # A folder may be named like a recipe, also one of another algorithm.
    folder = tmp_path / "cue-reward-hebbian"
    train = ["train", "--algo", algo, "cue-choice-hebbian", "--out", str(folder)]
    main([*train, *TINY_POLICY])
    assert "reward per scored step, 4 held-out" in capsys.readouterr().out
    main(["evaluate", str(folder / "checkpoint.pt"), "--episodes", "6"])
    assert "reward per scored step, 6 held-out" in capsys.readouterr().out
    main(["probe", str(folder / "checkpoint.pt"), "--episodes", "6", "--out", str(tmp_path)])
    assert "twin's fast weights" in capsys.readouterr().out
    (report,) = json.loads((tmp_path / "report.json").read_text()).values()
    assert report["task"].startswith("CueChoice(n_cues=2") and report["step"] == 2
    main([*train, *TINY_POLICY])  # there is nothing left to do
    with pytest.raises(SystemExit):
        main([*train, *TINY_POLICY, "--training.gamma", "0.5"])
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "pickles", "size"),
    [("cifar-fs-hebbian", cifar_fs.PICKLES, 32), ("mini-imagenet-gradient", mini_imagenet.PICKLES, 84)],
)
def test_image_recipes_run_on_files_like_the_real_ones(recipe, pickles, size, tmp_path, capsys):
    """The documented commands, but for the number of steps and episodes."""
    write_pickles(tmp_path, pickles.values(), size=size)
    command = ["train", recipe, "--out", str(tmp_path / "run"), "--task-arguments", f"path={tmp_path}"]
    few = ["--training.steps", "1", "--training.batch-size", "2", "--training.evaluation-episodes", "3"]
    main([*command, *few, "--network.hidden-size", "8", "--network.encoder.channels", "4"])
    assert "accuracy, 3 held-out" in capsys.readouterr().out
    main(["evaluate", str(tmp_path / "run" / "checkpoint.pt"), "--episodes", "3"])
    assert "accuracy, 3 held-out" in capsys.readouterr().out
    task = SupervisedLearner.load(tmp_path / "run" / "checkpoint.pt").player.task
    assert (task.split, task.augmentation, task.image_size) == ("test", "none", size)


def test_train_goes_on_with_the_same_settings_and_refuses_others(run_dir, capsys):
    main(["train", "cue-reward-hebbian", "--out", str(run_dir), *TINY])
    with pytest.raises(SystemExit) as stop:
        main(["train", "cue-reward-gradient", "--out", str(run_dir), *TINY])
    assert stop.value.code == 2
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["frobnicate"], "frobnicate"),
        (["train", "no-such-recipe", "--out", "x"], "no-such-recipe"),
        (["train", "cue-reward-none", "--out", "x", "--training.stepz", "3"], "--training.stepz"),
        (["train", "cue-reward-none", "--out", "x", "--training.steps", "many"], "'many'"),
        (
            ["train", "cue-reward-none", "--out", "x", "--training.steps", "0"],
            "steps must be a whole number, 1 or more",
        ),
        (["train", "cue-reward-none", "--out", "x", "--task", "Nowhere-v0"], "'Nowhere-v0'"),
        (["train", "cue-reward-none", "--out", "x", "--task-arguments", "n_queues=3"], "n_queues"),
        (
            ["train", "cue-reward-none", "--out", "x", "--task-arguments", "n_cues"],
            "such as delay=20, got 'n_cues'",
        ),
        (["train", "cue-reward-none", "--out", "x", "--device", "abacus"], "got 'abacus'"),
        (["train", "--algo", "dqn", "cue-reward-none", "--out", "x"], "'dqn'"),
        (
            ["train", "--algo", "ppo", "regression-none", "--out", "x"],
            "'regression-none' is for --algo supervised, not ppo",
        ),
        (
            ["train", "cue-choice-none", "--out", "cue-choice-none"],
            "'cue-choice-none' is for --algo ppo or a2c, not sup",
        ),
        (
            ["train", "--algo=a2c", "cue-choice-none", "--out", "x", "--training.n-epochs", "2"],
            "must be 1 for a2c, got 2",
        ),
        (["train", "--algo", "ppo", "cue-choice-none", "--out", "x", "--training.steps", "3"], "--training.steps"),
        (["evaluate"], "PATH"),
        (["evaluate", "missing.pt"], "missing.pt"),
        (["probe", __file__], "cannot be read as a checkpoint"),
    ],
)
def test_bad_arguments_end_with_one_line_and_code_2(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ""
    assert named in printed.err and printed.err.startswith("plastic-rnn: ") and printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "cue-reward-none", "--help"],
        ["train", "--algo", "ppo", "--help"],
        ["sweep", "--help"],
    ],
)
def test_help_ends_well(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "usage: plastic-rnn" in capsys.readouterr().out
