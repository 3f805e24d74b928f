"""Write docs/rules: a page for each plasticity rule, from the docstring and the code of its file.

    python docs/generate_rules.py

A test fails if the pages are stale.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path

import torch
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import RULES, PlasticityRule
from plastic_agents.models.plastic.update import Plasticity, settings_of

FOLDER = Path(__file__).parent / "rules"
PACKAGE = "plastic_agents.models.plastic.rules"
# A layer's sizes in examples, from which `shape` reads the letters. E is 0 there, or part of M.
SIZES = {5: "N", 7: "M", 1: "1"}
N, M, _ = SIZES
# Requirements beyond those of the Hebbian rule, each by a piece of code that only rules with the requirement have.
NEEDS = {
    "step.loss_gradient": "the gradient of an inner loss",
    "plastic_bias": "plastic biases",
    "step.read_fast(": "a read of W",
    "step.read(": "reads of W~ + W",
    "def extra_outputs": "extra outputs",
    "def make_parameters": "learned parameters",
    "keep_columns=": "a decay for each column",
    "(gate": "a learned decay",
    "rate=": "its own rate",
    "step.signed_eta": "a signed rate",
    "add=": "a write that adds its state",
}


def rules() -> dict[str, type[PlasticityRule]]:
    """Return the rules of the package, by name."""
    return {name: rule for name, rule in RULES.items() if rule.__module__.startswith(PACKAGE)}  # type: ignore[misc]


def pages() -> dict[str, str]:
    """Return the text of each page by file name."""
    return {"README.md": index(), **{f"{name}.md": page(name, rule) for name, rule in rules().items()}}


def docstring(rule: type[PlasticityRule]) -> tuple[str, str, str, str]:
    """Return the parts of a rule's module docstring: summary, equation, explanation and source."""
    summary, equation, *texts = (inspect.getdoc(sys.modules[rule.__module__]) or "").split("\n\n")
    source = texts.pop().removeprefix("Source: ")
    source = re.sub(r"arXiv (\d+\.\d+)", r"[arXiv \1](https://arxiv.org/abs/\1)", source)
    explanation = "\n\n".join(texts).replace("Why: ", "**Why:** ")
    return summary, textwrap.dedent(equation), explanation, source


def page(name: str, rule: type[PlasticityRule]) -> str:
    """Return the page of a rule: its equation and code, a table of its settings, its state and its source."""
    summary, equation, explanation, source = docstring(rule)
    file = f"{rule.__module__.rpartition('.')[2]}.py"
    link = f"../../agents/plastic_agents/models/plastic/rules/{file}#{rule.__name__}"
    settings = settings_of(Plasticity(), rule())
    parameters = rule().make_parameters(N, M)
    return f"""<!-- Written by docs/generate_rules.py from {file}: edit it there. -->

# {name}

{summary}

```text
{equation}
```

{explanation}

```python
{code(rule)}
```

| | |
|---|---|
| Network | `NetworkConfig("{name}")` |
| Class | [`{rule.__name__}`]({link}) |
| `rate` | {settings.rate:g} |
| `decay` | {settings.decay:g} |
| `max_norm` | {settings.max_norm:g} |
| `alpha_init` | `"{settings.alpha_init}"` |
| `layers` | {", ".join(f'`"{kind}"`' for kind in settings.layers)} |
| Plastic biases | {"yes" if rule.plastic_bias else "no"} |
| State of the rule in a layer | {shapes(rule().initial_state(parameters, N, M))} |
| Parameters of the rule in a layer | {shapes(dict(parameters.named_parameters()))} |
| [Forms](../equations.md#without-matrices) | {", ".join(forms(name))} |

The settings are defaults of [`Plasticity`](../../agents/plastic_agents/models/plastic/update.py#Plasticity). A layer
has N inputs and M outputs, extra outputs for the rule included. [The equations](../equations.md) define the other
symbols, such as [the rate eta and the decay d](../equations.md#2-the-rate) of a step, and
[the limit](../equations.md#4-the-limit) that a finite `max_norm` puts on the rate of writing.

Source: {source}
"""


def code(rule: type[PlasticityRule]) -> str:
    """Return the code of a rule's methods without their docstrings."""
    methods = [textwrap.dedent(inspect.getsource(value)) for value in vars(rule).values() if inspect.isfunction(value)]
    return "\n\n".join(re.sub(r' *""".*?"""\n', "", method, flags=re.DOTALL) for method in methods).strip()


def shapes(tensors: dict[str, torch.Tensor]) -> str:
    """Return names and shapes as Markdown."""
    letters = {name: ", ".join(SIZES[size] for size in tensor.shape) for name, tensor in tensors.items()}
    return ", ".join(f"`{name}` [{shape}]" if shape else f"`{name}`" for name, shape in letters.items()) or "none"


def forms(name: str) -> list[str]:
    """Return the forms that run a rule in an RNN, on a machine that has what they need."""
    network = PlasticNetwork(N, M, 1, rule=name)
    needs = {form: network.refusal(form, torch.zeros(1, 1, N), None) for form in ("compiled", "implicit", "dense")}
    return [form for form, need in needs.items() if need is None or need.startswith("a C compiler")]


def index() -> str:
    """Return the index page, with a table of all rules."""
    rows = []
    for name, rule in rules().items():
        _, equation, _, source = docstring(rule)
        written = next(line for line in equation.splitlines() if line.startswith("W")).partition(",  ")[0]
        states = rule().initial_state(rule().make_parameters(N, M), N, M).values()
        needs = [text for word, text in NEEDS.items() if word in inspect.getsource(rule)]
        needs += [{1: "a vector as state", 2: "a matrix as state"}[state.dim()] for state in states]
        source = " ".join(source.partition(";")[0].rstrip(".").split())
        rows.append(f"| [{name}]({name}.md) | `{written}` | {', '.join(needs)} | {source} |")
    table = "\n".join(rows)
    return f"""<!-- Written by docs/generate_rules.py. -->

# Plasticity rules

| Rule | Change of the fast weight W | Needs beyond the Hebbian rule | Source |
|---|---|---|---|
{table}

Vectors are rows, `(x)` is the outer product, p is the input of a layer and u its activity. The network sets
[the rate eta and the decay d](../equations.md#2-the-rate) at each step. [The equations](../equations.md) define the
other symbols. Each rule's page defines the symbols of that rule, such as its key k and value v. The equations leave out
[the limit](../equations.md#4-the-limit) on the norm of an update. Rules whose equation has no alpha fix it at 1 by
default, and rules whose equation has no d have d = 0 by default.

Any rule runs with any cell and in any of the network's layers: `NetworkConfig("delta", "gru")`, which has the default
settings of the rule. `plastic-rnn train cue-reward-hebbian --network.rule delta --network.cell gru --out runs/delta`
keeps the recipe's decay, limit and learning rate. You can also add [a rule of your
own](../your_own.md#plasticity-rule).
"""


def main() -> None:
    """Write all pages, and remove all other files."""
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.iterdir():
        stale.unlink()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
