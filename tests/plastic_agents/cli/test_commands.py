"""The commands, called by `main`."""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys

import gymnasium
import plastic_agents
import pytest
from plastic_agents import SupervisedLearner
from plastic_agents.cli.commands import COMMANDS
from plastic_agents.cli.commands.recipes import ALGOS, REINFORCEMENT_FAMILIES, SUPERVISED_FAMILIES, recipes_by_algo
from plastic_agents.cli.main import main
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.rule import RULES
from plastic_agents.training.recipes import REINFORCEMENT_RECIPES, SUPERVISED_RECIPES

import plastic_envs
from plastic_envs import registered_ids, registration
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


def family_of(name, recipe):
    """Return the name of a recipe without its end, which says what the network is."""
    network = recipe.network
    return name.removesuffix(f"-{network.cell if network.rule == 'none' else network.rule}")


@pytest.mark.parametrize("width", [80, 200])
def test_envs_lists_every_environment_with_its_recipes(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    main(["envs"])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    blocks = {block.split()[0]: block for block in printed.split("\n\n")[:-1]}
    assert list(blocks) == registered_ids()
    for recipes, label in (
        (SUPERVISED_RECIPES, "recipes: "),
        (REINFORCEMENT_RECIPES, "recipes with --algo ppo or a2c: "),
    ):
        for name, recipe in recipes.items():
            family = family_of(name, recipe)
            lines = {env_id: line for env_id, block in blocks.items() for line in block.split("\n") if label in line}
            assert [env_id for env_id, line in lines.items() if family in line.split(label)[1].split(", ")] == [
                recipe.task
            ]


@pytest.mark.parametrize(
    ("families", "recipes"),
    [(SUPERVISED_FAMILIES, SUPERVISED_RECIPES), (REINFORCEMENT_FAMILIES, REINFORCEMENT_RECIPES)],
    ids=["supervised", "reinforcement"],
)
def test_families_match_the_recipes(families, recipes):
    expected = {}
    for name, recipe in recipes.items():
        family = family_of(name, recipe)
        expected.setdefault(recipe.task, {})[family] = None
    assert families == {env_id: tuple(names) for env_id, names in expected.items()}


def test_every_algorithm_has_its_recipes():
    assert tuple(recipes_by_algo()) == ALGOS
    for algo in ("ppo", "a2c"):
        assert {recipe.training.algorithm for recipe in recipes_by_algo()[algo].values()} == {algo}


@pytest.mark.parametrize("algo", ALGOS)
def test_fields_with_a_separate_option_have_no_second_option(algo, capsys):
    recipe = next(iter(recipes_by_algo()[algo]))
    with pytest.raises(SystemExit):
        main(["train", "--algo", algo, recipe, "--help"])
    options = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    assert {"--training.seed", "--network.hidden-size"} < options
    assert not [option for option in options if re.search(r"algorithm|evaluation-arguments", option)]


@pytest.mark.parametrize("recipe", [[], ["cue-reward-hebbian"]])
def test_help_lists_rules_and_cells_also_those_of_a_user(recipe, capsys, monkeypatch):
    monkeypatch.setitem(RULES, "my_own", RULES["hebbian"])
    with pytest.raises(SystemExit):
        main(["train", *recipe, "--help"])
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert {"my_own", *RULES, *CELLS, "attention"} <= words


@pytest.mark.parametrize(
    ("arguments", "message", "known"),
    [
        (["train", "cue-reward-hebbian", "--network.rule", "hebb"], "invalid choice 'hebb'", "'bcm', 'delta', "),
        (["train", "cue-reward-hebbian", "--network.cell", "gate"], "invalid choice 'gate'", "'lstm', 'gru', "),
        (["train", "cue-reward-hebbian", "--network.cell", "attention"], "got 'attention'", "rnn, tanh_rnn, "),
        (["train", "cue-reward-rnn", "--network.cell", "mgu"], "got 'mgu'", "cell of a network without plasticity"),
        (["sweep", "cue-reward-hebbian", "--set", "network.rule=hebb"], "got 'hebb'", "none, bcm, delta, "),
    ],
)
def test_an_unknown_rule_or_cell_is_one_line_that_lists_the_known_ones(arguments, message, known, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--out", str(tmp_path / "run")])
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in printed
    assert known in printed
    assert printed.count("\n") == 1


def test_play_reads_answers_from_a_pipe(tmp_path):
    words = ["play", "CueReward", "--seed", "1", "--task-arguments", "n_support=2", "n_queries=2"]
    done = subprocess.run(
        [sys.executable, "-m", "plastic_agents", *words],
        input="0.5\nwhat\n-0.5\n",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CueReward, seed 1: Remember the reward of each cue.")
    assert "got 'what'" in done.stdout
    assert re.search(r"you +\d\.\d{3}\n +oracle +\d\.\d{3}\n +memoryless +\d\.\d{3}\n", done.stdout)


def test_play_without_a_seed_says_which_one_it_drew(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    main(["play", "CueChoice"])
    seed = re.match(r"CueChoice, seed (\d+): ", capsys.readouterr().out)[1]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    main(["play", "PlasticRNN/CueChoice-v0", "--seed", seed])
    assert f"CueChoice, seed {seed}: " in capsys.readouterr().out


@pytest.fixture
def own_task(tmp_path, monkeypatch):
    """The id of a task in a module that has not been imported."""
    monkeypatch.setattr(registration, "TASKS", dict(registration.TASKS))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_task.py").write_text(
        "import plastic_envs\n"
        "from plastic_envs.tasks import CueReward\n"
        "class Own(CueReward):\n"
        "    pass\n"
        "plastic_envs.register('Mine/Own-v0', Own)\n"
    )
    yield "own_task:Mine/Own-v0"
    sys.modules.pop("own_task", None)


def test_play_imports_the_module_of_an_id(own_task, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    main(["play", own_task])
    assert capsys.readouterr().out.startswith("Own, seed ")


def test_train_imports_the_module_of_an_id(own_task, tmp_path):
    for _ in range(2):  # the second time the run resumes
        main(["train", "cue-reward-hebbian", "--task", own_task, "--out", str(tmp_path / "run"), *TINY])
    learner = SupervisedLearner.load(tmp_path / "run" / "checkpoint.pt")
    assert (learner.task_id, type(learner.task).__name__) == (own_task, "Own")


@pytest.mark.parametrize("command", ["train", "sweep", "reproduce", "evaluate"])
def test_ctrl_c_says_whether_the_same_command_resumes(command, tmp_path, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS[command], "__call__", interrupted)
    words = {
        "train": ["cue-reward-rnn", "--out", str(tmp_path)],
        "sweep": ["cue-reward-rnn", "--out", str(tmp_path)],
        "reproduce": [],
        "evaluate": ["cue-reward-rnn"],
    }
    with pytest.raises(SystemExit) as stop:
        main([command, *words[command]])
    assert stop.value.code == 130
    advice = "" if command == "evaluate" else "; the same command resumes the run"
    assert capsys.readouterr().err == f"plastic-rnn: interrupted{advice}\n"


def test_version_is_that_of_the_package(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"plastic-rnn {plastic_agents.__version__}\n"
    assert plastic_agents.__version__ == plastic_envs.__version__


def test_no_arguments_print_help_and_exit_with_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("usage: plastic-rnn ")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out == printed.err


def test_evaluate_prints_score_oracle_and_memoryless(run_dir, capsys):
    main(["evaluate", str(run_dir / "checkpoint.pt"), "--episodes", "6"])
    printed = capsys.readouterr().out
    main(["evaluate", str(run_dir), "--episodes", "6"])
    assert capsys.readouterr().out.partition("\n")[2] == printed.partition("\n")[2]
    assert all(word in printed for word in ("intact", "oracle", "memoryless", "6 test episodes"))


def test_probe_prints_every_intervention_and_writes_files(run_dir, tmp_path, capsys):
    main(["probe", str(run_dir / "checkpoint.pt"), "--episodes", "6", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("no writing", "fast weights erased", "twin's hidden state"))
    (report,) = json.loads((tmp_path / "report.json").read_text()).values()
    assert report["task"].startswith("CueReward(n_cues=2, cue_size=14, noise=0.05")
    assert len(json.loads((tmp_path / "trace.json").read_text())["eta"]) == 20
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("adaptation.png", "trace.png"))


@pytest.mark.parametrize("path", ["checkpoint.pt", ".", "../run/checkpoint.pt"])
def test_probe_names_the_report_after_the_run_folder(path, run_dir, tmp_path, monkeypatch):
    shutil.copytree(run_dir, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    main(["probe", path, "--episodes", "3"])
    assert list(json.loads((tmp_path / "run" / "report.json").read_text())) == ["run"]


def test_extension_of_a_finished_run_prints_one_line(run_dir, tmp_path, capsys):
    shutil.copytree(run_dir, tmp_path / "run")
    more = ["--training.steps", "6", "--training.evaluate-every", "1"]
    main(["train", "cue-reward-hebbian", "--out", str(tmp_path / "run"), *TINY, *more])
    notice = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plastic-rnn: ")]
    assert len(notice) == 1
    assert "was planned with 4 steps and now has 6: from step 4 on, schedules span" in notice[0]
    assert SupervisedLearner.load(tmp_path / "run" / "checkpoint.pt").progress.step == 6


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_train_evaluate_and_probe_support_policies(algo, tmp_path, capsys):
    # A folder may be named like a recipe, also one of another algorithm.
    folder = tmp_path / "cue-reward-hebbian"
    train = ["train", "--algo", algo, "cue-choice-hebbian", "--out", str(folder)]
    main([*train, *TINY_POLICY])
    assert "reward per scored step, 4 test" in capsys.readouterr().out
    main(["evaluate", str(folder / "checkpoint.pt"), "--episodes", "6"])
    assert "reward per scored step, 6 test" in capsys.readouterr().out
    main(["probe", str(folder / "checkpoint.pt"), "--episodes", "6", "--out", str(tmp_path)])
    assert "twin's fast weights" in capsys.readouterr().out
    (report,) = json.loads((tmp_path / "report.json").read_text()).values()
    assert report["task"].startswith("CueChoice(n_cues=2")
    assert report["step"] == 2
    main([*train, *TINY_POLICY])  # the run is finished
    with pytest.raises(SystemExit):
        main([*train, *TINY_POLICY, "--training.gamma", "0.5"])
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "pickles", "size"),
    [("cifar-fs-hebbian", cifar_fs.PICKLES, 32), ("mini-imagenet-gradient", mini_imagenet.PICKLES, 84)],
)
def test_image_recipes_run_on_files_with_the_format_of_the_data_sets(recipe, pickles, size, tmp_path, capsys):
    """The documented commands, with fewer steps and episodes."""
    write_pickles(tmp_path, pickles.values(), size=size)
    command = ["train", recipe, "--out", str(tmp_path / "run"), "--task-arguments", f"path={tmp_path}"]
    few = ["--training.steps", "1", "--training.batch-size", "2", "--training.evaluation-episodes", "3"]
    main([*command, *few, "--network.hidden-size", "8", "--network.encoder.channels", "4"])
    assert "accuracy, 3 test" in capsys.readouterr().out
    main(["evaluate", str(tmp_path / "run" / "checkpoint.pt"), "--episodes", "3"])
    assert "accuracy, 3 test" in capsys.readouterr().out
    main(["evaluate", str(tmp_path / "run"), "--episodes", "3", "--split", "validation"])
    assert "accuracy, 3 validation" in capsys.readouterr().out
    learner = SupervisedLearner.load(tmp_path / "run" / "checkpoint.pt")
    for split, agent in (("test", learner.evaluation_agent), ("validation", learner.validation_agent)):
        assert (agent.task.split, agent.task.augmentation, agent.task.image_size) == (split, "none", size)


def test_train_resumes_with_the_same_settings_and_refuses_others(run_dir, capsys):
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
        (["train", "cue-reward-rnn", "--out", "x", "--training.stepz", "3"], "--training.stepz"),
        (["train", "cue-reward-rnn", "--out", "x", "--training.steps", "many"], "'many'"),
        (
            ["train", "cue-reward-rnn", "--out", "x", "--training.steps", "0"],
            "steps must be at least 1",
        ),
        (
            ["train", "cue-reward-rnn", "--out", "x", "--task-arguments", "n_cues=2", "n_cues=3"],
            "--task-arguments must give n_cues once, got 2 and 3",
        ),
        (
            ["train", "cue-reward-hebian", "--out", "x"],
            "recipe 'cue-reward-hebian' is unknown to --algo supervised; perhaps you meant cue-reward-hebbian or",
        ),
        (["train", "cue-reward-rnn", "--out", "x", "--steps", "3"], "perhaps you meant --training.steps (see"),
        (["train", "cue-reward-rnn", "--out", "x", "--hidden-size", "3"], "you meant --network.hidden-size (see"),
        (
            ["train", "--algo", "ppo", "cue-choice-lstm", "--out", "x", "--training.gama", "1"],
            "meant --training.gamma or --training.gae-lambda (see plastic-rnn train --algo ppo cue-choice-lstm --help)",
        ),
        (["train", "hebbian", "--out", "x"], "perhaps you meant cue-reward-hebbian or reproduction-hebbian or"),
        (["evaluated"], "perhaps you meant evaluate (see plastic-rnn --help)"),
        (["evaluate", "x", "y"], "unknown argument y (see plastic-rnn evaluate --help)"),
        (
            ["xyz"],
            "one of envs, models, train, sweep, reproduce, evaluate, probe, watch, play (see plastic-rnn --help)",
        ),
        (["probe", "x", "--episode", "3"], "perhaps you meant --episodes (see plastic-rnn probe --help)"),
        (
            ["evaluate", "."],
            "no checkpoint at checkpoint.pt, and no trained network of this name in plastic-rnn models",
        ),
        (["train", "cue-reward-rnn", "--out", __file__], f"--out {__file__}: File exists"),
        (["train", "cue-reward-rnn", "--out", f"{__file__}/x"], f"--out {__file__}/x: Not a directory"),
        (["train", "cue-reward-rnn", "--out", "x", "--task", "Nowhere-v0"], "'Nowhere-v0'"),
        (["train", "cue-reward-rnn", "--out", "x", "--task-arguments", "n_queues=3"], "n_queues"),
        (
            ["train", "cue-reward-rnn", "--out", "x", "--task-arguments", "n_cues"],
            "such as delay=20, got 'n_cues'",
        ),
        (["train", "cue-reward-rnn", "--out", "x", "--device", "abacus"], "got 'abacus'"),
        (["train", "--algo", "dqn", "cue-reward-rnn", "--out", "x"], "'dqn'"),
        (
            ["train", "--algo", "ppo", "regression-rnn", "--out", "x"],
            "'regression-rnn' is for --algo supervised, not ppo",
        ),
        (
            ["train", "cue-choice-lstm", "--out", "cue-choice-lstm"],
            "'cue-choice-lstm' is for --algo ppo or a2c, not supervised (see plastic-rnn train --help)",
        ),
        (
            ["train", "--algo=a2c", "cue-choice-lstm", "--out", "x", "--training.n-epochs", "2"],
            "must be 1 and batch_size None for a2c, got 2",
        ),
        (["train", "--algo", "ppo", "cue-choice-lstm", "--out", "x", "--training.steps", "3"], "--training.steps"),
        (
            ["train", "--network.rule", "delta", "cue-reward-hebbian", "--out", "x"],
            "plastic-rnn: --network.rule is a setting of a recipe, and must come after the recipe's name (see",
        ),
        (
            ["train", "--out", "x", "--training.steps=3", "cue-reward-rnn"],
            "--training.steps is a setting of a recipe, and must come after",
        ),
        (["train", "--out", "x"], "RECIPE is missing, such as cue-reward-hebbian (see plastic-rnn train --help)"),
        (
            ["sweep", "--seeds", "0", "1", "cue-reward-rnn", "--out", "x"],
            "must be whole numbers, got ['0', '1', 'cue-reward-rnn']; names of recipes come before --seeds (see",
        ),
        (
            ["sweep", "--set", "training.steps=3", "cue-reward-rnn", "--out", "x"],
            "RECIPE must be one or more names, before options of several values like --set, got none",
        ),
        (
            ["play", "nowhere:Mine/MyTask-v0"],
            "'nowhere:Mine/MyTask-v0' must begin with a module that Python can import (No module named 'nowhere'); set",
        ),
        (["train", "cue-reward-rnn", "--out", "x", "--task", "nowhere:MyTask-v0"], "(No module named 'nowhere')"),
        (["evaluate"], "MODEL"),
        (["evaluate", "missing.pt"], "missing.pt"),
        (["probe", __file__], "cannot be read as a checkpoint"),
    ],
)
def test_bad_arguments_print_one_line_and_exit_with_code_2(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert named in printed.err
    assert printed.err.startswith("plastic-rnn: ")
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [[], ["--algo", "a2c"]])
def test_errors_point_to_the_help_page_of_the_command(options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", *options, "cue-reward-hebbian", "--out", "x", "--training.seeds", "1"])
    help_arguments = capsys.readouterr().err.partition("(see plastic-rnn ")[2].strip(")\n").split()
    with pytest.raises(SystemExit) as stop:
        main(help_arguments)
    assert stop.value.code == 0
    assert "--training.seed INT" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "cue-reward-rnn", "--help"],
        ["train", "--algo", "ppo", "--help"],
        ["sweep", "--help"],
    ],
)
def test_help_fits_80_columns_and_has_no_markup(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: plastic-rnn")
    assert "\n╭─ options ─" in printed
    assert "`" not in printed
    assert "(default: )" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert {len(line) for line in printed.splitlines() if line[:1] in {*"│╭╰"}} == {80}


_FULL = """
import resource
from plastic_agents.cli.commands.recipes import ALGOS, REINFORCEMENT_FAMILIES, SUPERVISED_FAMILIES, recipes_by_algo
from plastic_agents.cli.main import main
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.rule import RULES
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
main({words!r})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="only Unix limits the size of files")
@pytest.mark.parametrize("limit", [200, 20_000])
def test_a_file_size_limit_prints_one_line_and_keeps_the_old_checkpoint(limit, run_dir, tmp_path):
    """Like a full disk. The small limit stops TensorBoard's file, the large one the checkpoint."""
    shutil.copytree(run_dir, tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    assert limit < len(before)
    words = ["train", "cue-reward-hebbian", "--out", "run", *TINY, "--training.steps", "6"]
    done = subprocess.run(
        [sys.executable, "-c", _FULL.format(limit=limit, words=[*words, "--training.evaluate-every", "6"])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"plastic-rnn: --out run: File too large( \(run/checkpoint\.pt\))?", done.stderr.splitlines()[-1]
    )
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_full_disk_prints_one_line_and_exits_with_code_1(tmp_path, monkeypatch, capsys):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as stop:
        main(["train", "cue-reward-hebbian", "--out", str(tmp_path / "run"), *TINY])
    assert stop.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"plastic-rnn: --out {tmp_path}/run: No space left on device (")


@pytest.mark.parametrize("make_stream", [io.StringIO, lambda: io.TextIOWrapper(io.BytesIO(), "ascii")])
def test_help_can_be_printed_to_a_stream_without_unicode(monkeypatch, make_stream):
    page = make_stream()
    monkeypatch.setattr(sys, "stdout", page)
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    page.seek(0)
    assert page.read().startswith("usage: plastic-rnn")


def test_divergence_exits_with_code_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "cue-reward-hebbian", "--out", str(tmp_path), *TINY, "--training.learning-rate", "1e30"])
    assert stop.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("plastic-rnn: step ")
    assert "learning_rate" in line
    assert "--help" not in line
