"""The search and the final runs of the benchmark of learning in other environments, and the page of its results."""

import json

import pytest


@pytest.fixture(scope="module")
def learning(benchmark_script):
    return benchmark_script("learning")


def tiny(learning, **changes):
    settings = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "gamma": 0.9}
    return learning.Task("CartPole-v1", 256, 2, 4, **{"settings": settings, **changes})


def test_final_runs_have_the_best_rate_of_the_search_and_are_made_once(learning, monkeypatch, tmp_path):
    monkeypatch.setitem(learning.TASKS, "tiny", tiny(learning))
    path = tmp_path / "tiny-lstm.json"
    learning.run("tiny", "lstm", (0,), path)
    content = json.loads(path.read_text())
    assert [result["learning_rate"] for result in content["search"]] == list(learning.RATES)
    assert {result["total_timesteps"] for result in content["search"]} == {128}
    best = max(content["search"], key=lambda result: result["score"])["learning_rate"]
    assert [(result["seed"], result["learning_rate"]) for result in content["finals"]] == [(0, best)]
    learning.run("tiny", "lstm", (0, 1), path)
    again = json.loads(path.read_text())
    assert again["search"] == content["search"]
    assert again["finals"][0] == content["finals"][0]
    assert again["finals"][1]["seed"] == 1


def test_final_runs_with_another_rate_than_the_best_are_made_again(learning, monkeypatch, tmp_path):
    trained = []

    def train(task, learner, rate, steps, seed, test_seed):
        trained.append((rate, seed))
        return {"seed": seed, "learning_rate": rate, "score": rate, "processor_seconds": 0.0}

    monkeypatch.setattr(learning, "train", train)
    monkeypatch.setitem(learning.TASKS, "tiny", tiny(learning))
    path = tmp_path / "tiny-lstm.json"
    for rates in ((0.1, 0.2), (0.1, 0.2, 0.3)):
        monkeypatch.setattr(learning, "RATES", rates)
        learning.run("tiny", "lstm", (0,), path)
    seed = learning.SEARCH_SEED
    assert trained == [(0.1, seed), (0.2, seed), (0.2, 0), (0.3, seed), (0.3, 0)]
    assert [result["learning_rate"] for result in json.loads(path.read_text())["finals"]] == [0.3]


@pytest.mark.parametrize("learner", ["hebbian", "sb3"])
def test_learners_with_their_own_defaults_have_no_search(learning, monkeypatch, tmp_path, learner):
    monkeypatch.setitem(learning.TASKS, "tiny", learning.Task("CartPole-v1", 300, 1, 4, own_defaults=True))
    path = tmp_path / "tiny.json"
    learning.run("tiny", learner, (0,), path)
    content = json.loads(path.read_text())
    assert content["search"] == []
    (final,) = content["finals"]
    assert final["learning_rate"] is None
    assert len(final["returns"]) == len(final["steps"]) == learning.POINTS
    returns = [value for value in final["returns"] if value is not None]
    assert returns
    assert min(returns) >= 8  # no pole falls earlier


def test_page_has_the_results(docs_script):
    generator = docs_script("generate_learning")
    advice = "run: python docs/generate_learning.py"
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), f"the page is stale; {advice}"
    assert generator.PAGE.with_suffix(".png").exists()
