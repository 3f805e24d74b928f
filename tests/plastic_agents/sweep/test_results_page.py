"""The published results: their pages are up to date, and recipes have the settings that the studies chose."""

import json
from pathlib import Path

import pytest
from PIL import Image
from plastic_agents import REINFORCEMENT_RECIPES, SUPERVISED_RECIPES
from plastic_agents.cli.commands.recipes import recipe_scores
from plastic_agents.sweep.comparison import flat_settings
from plastic_agents.sweep.plan import plan_sweep, read_json
from plastic_agents.sweep.reproduce import differences
from plastic_agents.sweep.studies import STUDIES
from plastic_agents.sweep.study_pages import FIGURES, OVERVIEW_FIGURE, fingerprint, pages, read_cells, tuned_studies
from plastic_agents.sweep.study_scores import csv_texts
from plastic_agents.training.supervised_config import SupervisedConfig

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results"
CELLS = sorted(RESULTS.glob("*/*.json"))


def test_pages_are_up_to_date():
    texts = pages(read_cells(RESULTS))
    advice = "run: python docs/generate_results.py"
    assert {path.name for path in RESULTS.glob("*.md")} == set(texts), advice
    figures = {f"{Path(file).stem}{ending}" for file in texts for ending in FIGURES if file != "README.md"}
    assert {path.stem for path in RESULTS.glob("*.png")} == figures | {Path(OVERVIEW_FIGURE).stem}, advice
    for file, text in {**texts, **csv_texts(read_cells(RESULTS))}.items():
        assert (RESULTS / file).read_text(encoding="utf-8") == text, f"{file} is stale; {advice}"


def test_figures_are_up_to_date():
    finished = read_cells(RESULTS)
    sources = {f"{name}{ending}.png": cells for name, cells in finished.items() for ending in FIGURES}
    for file, cells in {**sources, OVERVIEW_FIGURE: tuned_studies(finished)}.items():
        with Image.open(RESULTS / file) as figure:
            assert figure.info["Source"] == fingerprint(cells), f"{file} is stale; run: python docs/generate_results.py"


@pytest.fixture(scope="module")
def generator(docs_script):
    return docs_script("generate_results")


def test_pages_with_numbers_of_the_studies_are_up_to_date(generator):
    for template, page in generator.PAGES.items():
        text = generator.filled(template, read_cells(RESULTS))
        assert page.read_text(encoding="utf-8") == text, f"{page} is stale; run: python docs/generate_results.py"
    assert (ROOT / "README.md").read_text(encoding="utf-8") == generator.readme(read_cells(RESULTS))
    with pytest.raises(ValueError, match="row must be a study"):
        generator.value({}, "score", ["paper-nothing/hebbian"])


def test_scores_of_recipes_are_up_to_date(generator):
    finished, advice = read_cells(RESULTS), "run: python docs/generate_results.py"
    assert recipe_scores() == generator.recipe_scores(finished), advice
    assert generator.RECIPES.read_text(encoding="utf-8") == generator.recipes_page(finished, recipe_scores()), advice
    for study in ("glyphs", "harlow"):  # without a search of their own, so no other test compares the settings
        assert {f"{study}-{method}" for method in finished[study]} <= {
            name for of_recipes in recipe_scores().values() for name in of_recipes
        }


def test_the_site_shows_all_pages():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in RESULTS.glob("*.md"):
        assert f"results/{path.name}" in navigation


@pytest.mark.parametrize("path", CELLS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_results_are_those_of_the_study(path):
    cell, study = read_json(path), STUDIES[path.parent.name]
    assert (cell["study"], cell["method"]) == (path.parent.name, path.stem)
    assert differences(cell, study, path.stem) == []
    if study.settings_from is None and not study.is_searched:
        (trial,) = plan_sweep({path.stem: study.recipe(path.stem)})
        assert flat_settings(json.loads(json.dumps(trial.to_json()))) == cell["settings"]
    elif study.settings_from is not None:
        source = read_json(RESULTS / study.settings_from / path.name)
        chosen = {name: source["settings"][name] for name in source["chosen"]}
        assert {name: cell["settings"][name] for name in chosen} == chosen


@pytest.mark.parametrize(
    "path",
    [path for path in CELLS if STUDIES[path.parent.name].is_searched],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_recipes_have_the_settings_that_the_search_chose(path):
    cell, study = read_json(path), STUDIES[path.parent.name]
    is_supervised = isinstance(study.training, SupervisedConfig)
    recipes = SUPERVISED_RECIPES if is_supervised else REINFORCEMENT_RECIPES
    name = f"{path.parent.name.removesuffix('-ppo')}-{path.stem}"
    assert name in recipes, f"there is no recipe {name}"
    (trial,) = plan_sweep({name: recipes[name]})
    assert dict(recipes[name].task_arguments) == cell["task_arguments"]
    assert flat_settings(trial.to_json()) == cell["settings"]
