"""Recordings of an episode, their animations and the command that shows them."""

import runpy
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.animation import FFMpegWriter
from PIL import Image
from plastic_agents import INTERVENTIONS, NetworkConfig, SupervisedAgent, held_out_rng, load_pretrained
from plastic_agents.analysis.animation import EpisodeAnimation, _largest
from plastic_agents.analysis.animation_output import render, write_animation
from plastic_agents.analysis.recordings import record
from plastic_agents.analysis.traces import fast_matrices
from plastic_agents.cli.commands.watch import InterventionName
from plastic_agents.cli.main import main

from plastic_envs import make_task

ROOT = Path(__file__).parents[3]
QUERY, STEPS = 3, 5


def make_agent(task="PlasticRNN/CueReward-v0", rule="hebbian", cell="rnn", **arguments):
    arguments = arguments or {"n_cues": 2, "n_support": QUERY, "n_queries": STEPS - QUERY}
    return SupervisedAgent(make_task(task, **arguments), NetworkConfig(rule, cell, hidden_size=8))


def test_a_recording_is_what_the_agent_does():
    agent = make_agent()
    recording = record(agent, seed=4)
    episode = agent.task.sample_yoked(held_out_rng(4), 1)[0]
    actions, output = agent.play(episode)
    np.testing.assert_allclose(recording.actions, actions[0], atol=1e-5)
    np.testing.assert_allclose(recording.eta, output.eta[:, 0].detach().numpy(), atol=1e-5)
    for step in range(STEPS):
        expected = fast_matrices(agent.state_before(episode, step).fast)
        assert list(recording.used) == list(expected)
        for name, matrix in expected.items():
            np.testing.assert_allclose(recording.used[name][step], matrix[0].detach().numpy(), atol=1e-5)
            np.testing.assert_array_equal(recording.written[name][max(step - 1, 0)], recording.used[name][max(step, 1)])
    assert recording.intervention is None


def test_an_intervention_shows_at_its_step():
    agent = make_agent()
    intact, erased = record(agent), record(agent, intervention="fast_erased")
    name = "hidden_to_hidden"
    np.testing.assert_array_equal(erased.used[name][:QUERY], intact.used[name][:QUERY])
    np.testing.assert_array_equal(erased.written[name][QUERY - 1], intact.written[name][QUERY - 1])
    assert np.abs(erased.written[name][QUERY - 1]).max() > 0
    assert not erased.used[name][QUERY].any()
    assert (erased.intervention.name, erased.step) == ("fast_erased", QUERY)
    silent = record(agent, intervention="no_writing")
    assert not any(matrices.any() for matrices in (*silent.used.values(), *silent.written.values()))
    twin = record(agent, intervention="fast_transplant", step=2)
    donor = agent.state_before(agent.task.sample_yoked(held_out_rng(0), 1)[1], 2)
    expected = fast_matrices(donor.fast)[name][0].detach().numpy()
    np.testing.assert_allclose(twin.used[name][2], expected, atol=1e-6)


def test_bad_arguments_of_recordings():
    with pytest.raises(ValueError, match=r"intervention must be one of intact, .* got 'erase'"):
        record(make_agent(), intervention="erase")
    with pytest.raises(ValueError, match="one of intact, hidden_erased, hidden_transplant, got 'fast_erased'"):
        record(make_agent(rule="none"), intervention="fast_erased")
    with pytest.raises(ValueError, match=r"step must be .* got 5"):
        record(make_agent(), step=STEPS)


def test_frames_reveal_the_episode_step_by_step():
    recording = record(make_agent())
    animation = EpisodeAnimation(recording, "a network")
    assert animation.n_frames == 2 * STEPS
    image, used, written = animation._weights[0]
    strip = animation._strips[0][0]
    for frame in (0, 3, 8, 5):
        animation.draw(frame)
        step, answered = divmod(frame, 2)
        np.testing.assert_array_equal(image.get_array(), (written if answered else used)[step])
        shown = np.flatnonzero(np.abs(strip.get_array()).sum(axis=0))
        np.testing.assert_array_equal(shown, np.arange(step + 1))
        bars = [bar.get_height() for bar in animation._eta]
        assert bars == pytest.approx([*recording.eta[: step + answered], *[0] * (STEPS - step - answered)])
        answers = animation._answers.get_ydata()
        np.testing.assert_allclose(answers, recording.actions[QUERY : max(step + answered, QUERY), 0], rtol=1e-6)
    assert animation._score.get_text() == ""
    animation.draw(9)
    assert animation._score.get_text().startswith("mean squared error ")


def test_only_the_largest_rows_and_columns_are_drawn():
    matrices = np.zeros((2, 50, 40))
    matrices[1, 49, 39], matrices[1, 48, 39] = 3, -2
    used, written = _largest(matrices, matrices)
    assert used.shape == written.shape == (2, 32, 32)
    assert (written[1, 0, 0], written[1, 1, 0]) == (3, -2)
    assert _largest(matrices[:, :4], matrices[:, :4])[0].shape == (2, 32, 4)


@pytest.mark.parametrize(
    ("task", "arguments", "rule"),
    [
        ("PlasticRNN/FewShotClassification-v0", {"n_way": 2, "n_queries": 2}, "gradient"),
        ("PlasticRNN/SequenceReproduction-v0", {"length": 2, "delay": 1}, "rls"),
        ("PlasticRNN/CueReward-v0", {"n_cues": 2}, "none"),
    ],
)
def test_every_kind_of_task_and_network_can_be_drawn(task, arguments, rule):
    agent = make_agent(task, rule, "rnn" if rule != "none" else "lstm", **arguments)
    animation = EpisodeAnimation(record(agent), "a network")
    first, last = render(animation, 0), render(animation, animation.n_frames - 1)
    assert first.shape == last.shape == (580 if rule != "none" else 360, 800, 3)
    assert (first != last).any()


def test_files(tmp_path):
    animation = EpisodeAnimation(record(make_agent()), "a network")
    write_animation(tmp_path / "a.gif", animation)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.size, image.n_frames, image.info["loop"]) == ((800, 580), 2 * STEPS, 0)
        image.seek(2 * STEPS - 1)
        shown = np.asarray(image.convert("RGB")).astype(int)
        assert image.info["duration"] == 3000
    # A GIF has fewer colours.
    assert np.abs(shown - render(animation, 2 * STEPS - 1)).mean() < 3
    write_animation(tmp_path / "a.PNG", animation)
    with Image.open(tmp_path / "a.PNG") as image:
        np.testing.assert_array_equal(np.asarray(image), render(animation, 2 * STEPS - 1))
    with pytest.raises(ValueError, match=r"one of \.gif, \.mp4, \.png, got '\.jpg'"):
        write_animation(tmp_path / "a.jpg", animation)


@pytest.mark.skipif(not FFMpegWriter.isAvailable(), reason="needs ffmpeg")
def test_mp4(tmp_path):
    write_animation(tmp_path / "a.mp4", EpisodeAnimation(record(make_agent()), "a network"))
    assert b"ftyp" in (tmp_path / "a.mp4").read_bytes()[:16]


def test_an_mp4_without_ffmpeg_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", lambda: False)
    with pytest.raises(ValueError, match=r"needs the program ffmpeg, which is not installed: choose a .gif"):
        write_animation(tmp_path / "a.mp4", EpisodeAnimation(record(make_agent()), "a network"))
    assert not list(tmp_path.iterdir())


def test_watch_writes_a_file(tmp_path, capsys):
    arguments = ["watch", "cue-reward-hebbian", "--intervention", "fast_erased", "--episode-seed", "2"]
    main([*arguments, "--out", str(tmp_path / "a.png")])
    assert capsys.readouterr().out == f"wrote {tmp_path}/a.png\n"
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_watch_without_a_display_says_what_to_do(capsys):
    pyplot.switch_backend("agg")
    with pytest.raises(SystemExit) as stop:
        main(["watch", "cue-reward-hebbian"])
    assert stop.value.code == 2
    assert "a window needs a display and a library such as PyQt: give --out" in capsys.readouterr().err


def test_watch_knows_all_interventions():
    assert get_args(InterventionName) == tuple(INTERVENTIONS)


def test_the_animation_of_the_readme_is_up_to_date():
    generator = runpy.run_path(str(ROOT / "docs" / "generate_animations.py"))
    path = generator["IMAGES"] / "fast_weights.gif"
    assert path.stat().st_size <= 300_000
    animation = EpisodeAnimation(
        record(load_pretrained(generator["NETWORK"]), seed=generator["SEED"]), generator["TITLE"]
    )
    with Image.open(path) as image:
        assert image.n_frames == animation.n_frames
        image.seek(animation.n_frames - 1)
        shown = np.asarray(image.convert("RGB")).astype(int)
    difference = np.abs(shown - render(animation, animation.n_frames - 1)).mean()
    assert difference < 3, "fast_weights.gif is stale; run: python docs/generate_animations.py"
