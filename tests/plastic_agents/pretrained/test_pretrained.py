"""The trained networks of the package: each loads, has the score of its card, and is within the limits of size."""

import json
import runpy
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plastic_agents import (
    NetworkConfig,
    ReinforcementConfig,
    ReinforcementLearner,
    SupervisedConfig,
    SupervisedLearner,
    held_out_rng,
    load_pretrained,
    pretrained_card,
    pretrained_names,
    probe,
)
from plastic_agents.cli.main import main
from plastic_agents.pretrained import cards, load

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def exporter(docs_script):
    return docs_script("export_pretrained")


@pytest.fixture
def folder(tmp_path, monkeypatch, exporter):
    """A copy of two networks, in the place of the package's folder."""
    for name in ("cue-reward-hebbian", "cue-reward-lstm"):
        for suffix in ("json", "safetensors"):
            shutil.copy(cards.FOLDER / f"{name}.{suffix}", tmp_path)
    for module in (cards, load, exporter):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", pretrained_names())
def test_a_network_has_the_score_of_its_card(name):
    card = pretrained_card(name)
    report = probe(load_pretrained(name), episodes=60, seed=7, interventions=["intact"], step=0)
    score = report["intact"].metric
    assert (report.metric_name, report.metric_is_error) == (card.metric_name, card.metric_is_error)
    assert score.low < card.score.high
    assert card.score.low < score.high
    assert card.parameters <= 100_000
    assert (card.episodes, card.oracle.mean != card.memoryless.mean) == (1000, True)
    better = card.memoryless.mean - card.score.mean
    assert (better if card.metric_is_error else -better) > 0


def test_files_are_small_and_complete(exporter):
    files = sorted(path for path in cards.FOLDER.iterdir())
    names = pretrained_names()
    assert {"cue-reward-hebbian", "cue-reward-gradient", "cue-reward-lstm"} <= set(names)
    assert {path.name for path in files} == {f"{name}.{end}" for name in names for end in ("json", "safetensors")}
    assert max(path.stat().st_size for path in files) <= exporter.MAX_BYTES <= 400_000
    assert sum(path.stat().st_size for path in files) <= exporter.MAX_TOTAL_BYTES <= 6_000_000


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"cue-reward-hebbian, .* got '\.\./cue-reward-hebbian'"):
        load_pretrained("../cue-reward-hebbian")
    with pytest.raises(ValueError, match=r"split must be .* got 'train'"):
        load_pretrained("cue-reward-hebbian", split="train")


def test_damaged_files_are_refused(folder):
    path = folder / "cue-reward-hebbian.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"cue-reward-hebbian\.safetensors is damaged"):
        load_pretrained("cue-reward-hebbian")
    card = json.loads((folder / "cue-reward-lstm.json").read_text())
    (folder / "cue-reward-lstm.json").write_text(json.dumps({**card, "more": 1}))
    with pytest.raises(ValueError, match=r"must be a card in JSON with task, .*: it has task, .*more"):
        load_pretrained("cue-reward-lstm")


def test_parameters_are_numbers_only():
    """The file begins with the size of a JSON header, and the rest are the bytes of the tensors."""
    data = (cards.FOLDER / "cue-reward-hebbian.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(data) - 8 - size


def learners(run):
    """A supervised and a reinforcement learner that have made a few steps."""
    network = NetworkConfig("hebbian", hidden_size=4)
    arguments = {"n_cues": 2}
    yield SupervisedLearner(
        "PlasticRNN/CueReward-v0",
        network,
        SupervisedConfig(steps=2, batch_size=2, evaluation_episodes=4),
        task_arguments=arguments,
        run_dir=run / "supervised",
    )
    config = ReinforcementConfig(total_timesteps=20, n_envs=2, evaluation_episodes=4, reward_prediction_coef=1.0)
    yield ReinforcementLearner(
        "PlasticRNN/CueChoice-v0", network, config, task_arguments=arguments, run_dir=run / "policy"
    )


def test_exported_networks_act_like_those_of_the_runs(folder, exporter, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "EPISODES", 5)
    for learner in learners(tmp_path / "runs"):
        learner.learn(progress_bar=False)
        run = learner.run_dir
        exporter.export(exporter.Source(run.name, run, "the only one", "0000000", "0.0.0"))
        assert run.name in pretrained_names()
        agent = load_pretrained(run.name, split="validation")
        episodes = learner.task.sample(held_out_rng(0), 3)
        with learner.agent.evaluating():
            expected, _ = learner.agent.play(episodes)
        np.testing.assert_array_equal(agent.play(episodes)[0], expected)
        card = pretrained_card(run.name)
        assert (card.commit, card.choice, card.steps) == ("0000000", "the only one", learner.progress.step)
        assert card.task_arguments == {"n_cues": 2}


def test_the_exporter_refuses_unfinished_runs_and_large_networks(folder, exporter, tmp_path, monkeypatch):
    learner = next(learners(tmp_path / "runs"))
    learner.learn(progress_bar=False)
    source = exporter.Source("supervised", learner.run_dir, "", "", "")
    monkeypatch.setattr(exporter, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="the parameters of supervised must have at most 100 bytes"):
        exporter.export(source)
    learner.config = replace(learner.config, steps=3)
    learner.save(learner.checkpoint_path)
    with pytest.raises(ValueError, match="must hold a finished run, got one with 2 steps"):
        exporter.export(source)
    assert "supervised" not in pretrained_names()


def test_loading_leaves_the_random_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    load_pretrained("cue-reward-hebbian")
    assert torch.rand(1) == expected


def test_the_command_line_accepts_the_name_of_a_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["models"])
    listed = capsys.readouterr().out
    assert all(f" {name} " in listed for name in pretrained_names())
    of_glyphs = listed.partition("glyphs-hebbian")[2].partition("memoryless")[0]
    assert "│ upper bound " in of_glyphs, "the task's oracle is not exactly the best possible player"
    assert "oracle" not in of_glyphs
    main(["evaluate", "cue-reward-hebbian", "--episodes", "20"])
    assert "20 test episodes" in capsys.readouterr().out
    main(["probe", "cue-reward-hebbian", "--episodes", "5"])
    assert "wrote report.json, adaptation.png, trace.json, trace.png into runs/probe/cue-reward-hebbian" in (
        capsys.readouterr().out
    )
    report = json.loads((tmp_path / "runs/probe/cue-reward-hebbian/report.json").read_text())
    assert list(report) == ["cue-reward-hebbian"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["probe"], "runs/NAME may be a run of the user"


def shared_folder(path, network="cue-reward-hebbian"):
    """Write a network of the package as `save_pretrained` writes one."""
    path.mkdir()
    for name in ("model.safetensors", "card.json"):
        shutil.copy(cards.FOLDER / f"{network}{Path(name).suffix}", path / name)
    return path


def test_the_command_line_accepts_a_folder_to_share_and_leaves_it_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = shared_folder(tmp_path / "mine")
    before = sorted(folder.iterdir())
    main(["probe", str(folder), "--episodes", "5"])
    assert "wrote report.json, adaptation.png, trace.json, trace.png into runs/probe/mine" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "runs/probe/mine/report.json").read_text())) == ["mine"]
    assert sorted(folder.iterdir()) == before
    (folder / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(SystemExit):
        main(["evaluate", str(folder)])
    assert "model.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["checkpoint", "shared"])
def test_a_network_in_a_folder_of_the_same_name_comes_first(content, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cue-reward-hebbian"
    if content == "shared":
        shared_folder(folder, "bandit-lstm")
        main(["evaluate", "cue-reward-hebbian", "--episodes", "5"])
        assert "reward per scored step" in capsys.readouterr().out
    else:
        folder.mkdir()
        (folder / "checkpoint.pt").write_bytes(b"rubbish")
        with pytest.raises(SystemExit):
            main(["evaluate", "cue-reward-hebbian"])
        assert "cue-reward-hebbian/checkpoint.pt cannot be read as a checkpoint" in capsys.readouterr().err


def test_another_folder_of_the_same_name_does_not_hide_a_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cue-reward-hebbian").mkdir()
    main(["evaluate", "cue-reward-hebbian", "--episodes", "5"])
    assert "5 test episodes" in capsys.readouterr().out


def test_similar_names_of_networks_are_suggested(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["evaluate", "cue-reward-hebian"])
    assert "in plastic-rnn models; perhaps you meant cue-reward-hebbian or " in capsys.readouterr().err


def test_the_example_probes_trained_networks(tmp_path, monkeypatch, capsys):
    example = runpy.run_path(str(ROOT / "examples" / "look.py"))
    example["main"].__globals__.update(EPISODES=10, OUT=tmp_path)
    example["main"]()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("hebbian", "gradient", "lstm", "no writing", "10 test episodes"))
    assert (tmp_path / "adaptation.png").read_bytes().startswith(b"\x89PNG")
