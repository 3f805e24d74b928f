"""The kernel of a network: its traced step, the generated code, and the compiled library."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plastic_agents.models.plastic.forms.compiled.build import Libraries, load
from plastic_agents.models.plastic.forms.compiled.generate import Code, generate
from plastic_agents.models.plastic.forms.compiled.layout import Layout
from plastic_agents.models.plastic.forms.compiled.memory import PaddedMatrix
from plastic_agents.models.plastic.forms.compiled.program import LINE_BYTES, MatrixSize, Program, trace_step
from plastic_agents.models.plastic.tracing.trace import UntraceableError

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork


class Kernel:
    """Everything of the compiled form that depends on a network's structure alone."""

    def __init__(self, program: Program, code: Code, libraries: Libraries, hidden_size: int, line: int) -> None:
        self.program, self.code, self.libraries = program, code, libraries
        self.hidden_size, self.line = hidden_size, line
        n_matrices = len(program.sizes)
        self.layout = Layout(program.sizes, code.matrices[:n_matrices], program.names)
        shapes = [MatrixSize(*program.projection_shape(name), bias=False) for name in program.projections]
        projections = Layout(shapes, code.matrices[n_matrices:], [])
        rows = [MatrixSize(1, value.length, bias=False) for value in program.shared.values()]
        shared = Layout(rows, code.shared_rows, [])
        # The layouts of the arrays of weights.
        self.weights = {"slow": self.layout, "alpha": self.layout, "projections": projections, "shared": shared}
        # Arrays of weights and views of their parts, which no step is using.
        self.spare_arrays: list[tuple[dict[str, Tensor], dict[str, list[Tensor]]]] = []
        self.has_matrices = any(key is not None for _, key in program.names)
        self.readout_size: int = program.readout.length
        self.tables = {
            "lengths": torch.tensor(code.lengths),
            "offsets": torch.tensor(code.offsets),
            "matrix_table": torch.tensor([list(matrix) for matrix in code.matrices]),
        }
        self.sizes = {
            "tape_size": code.area_sizes["tape"],
            "back_size": code.area_sizes["back"],
            "scratch_size": code.area_sizes["scratch"],
            "carry_size": code.carry_size,
            "matrix_size": self.layout.size,
            "shared_size": shared.size,
            "projections_size": projections.size,
            "R": self.readout_size,
            "n_lengths": len(code.lengths),
            "n_offsets": len(code.offsets),
            "n_matrices": len(code.matrices),
            "MATRIX_FIELDS": len(PaddedMatrix._fields),
        }


_KERNELS: dict[Any, Kernel | str] = {}
_NUMBERS = (bool, int, float)


def find_kernel(core: PlasticNetwork, dtype: torch.dtype) -> Kernel | str:
    """Return the kernel for a network and a dtype, or what is missing.

    The first call builds the kernel, unless it is in the cache, and compares it with the dense form. If there is no
    kernel for another reason than the compiler, it gives a warning.

    Raises:
        ValueError: a weight, bias or coefficient of a layer of the wrong shape.
    """
    key = _structure(core, dtype)
    try:
        hash(key)
    except TypeError as error:
        return f"a rule whose constants are hashable: {error}"
    if key not in _KERNELS:
        _check_layers(core)
        kernel = _make(core, dtype)
        _KERNELS[key] = _verified(core, kernel, dtype) if isinstance(kernel, Kernel) else kernel
    return _KERNELS[key]


def _check_layers(core: PlasticNetwork) -> None:
    for name, layer in core.layers.items():
        weight_shape, bias_shape = (layer.in_features, layer.out_features), (layer.out_features,)
        for kind, shape in (("weight", weight_shape), ("bias", bias_shape)):
            for key in (kind, f"alpha_{kind}") if layer.plastic else (kind,):
                tensor = getattr(layer, key)
                if tensor.shape != shape:
                    raise ValueError(f"{name}.{key} must have shape {list(shape)}, got {list(tensor.shape)}")


def _make(core: PlasticNetwork, dtype: torch.dtype) -> Kernel | str:
    try:
        program = trace_step(core, dtype)
        code = generate(program, dtype.itemsize)
    except UntraceableError as error:
        return _warn(core, f"a step that can be traced: {error}")
    except Exception as error:  # the code of a rule or cell may do anything with a traced value
        return _warn(core, f"a step that can be traced, got {type(error).__name__}: {error}")
    libraries = load(code.source, dtype)
    if libraries is None:
        return "a C compiler"
    return Kernel(program, code, libraries, core.hidden_size, LINE_BYTES // dtype.itemsize)


def _verified(core: PlasticNetwork, kernel: Kernel, dtype: torch.dtype) -> Kernel | str:
    marker = kernel.libraries.verified
    if marker.exists():
        return kernel
    from plastic_agents.models.plastic.forms.compiled.verify import disagreement  # it runs the kernel

    # The kernel is the same in every mode of the caller, so its comparison must not depend on the mode.
    with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.enable_grad():
        difference = disagreement(core, kernel, dtype)
    if difference is None:
        with contextlib.suppress(OSError):  # without the marker, the next process verifies again
            marker.touch(mode=0o600)
        return kernel
    return _warn(core, f"generated code that agrees with the dense form, which it does not in {difference}")


def _warn(core: PlasticNetwork, needs: str) -> str:
    warnings.warn(
        f"networks with rule {core.rule_name} and {core.cell.__name__} run in PyTorch alone, several times slower than "
        f"compiled, which needs {needs}",
        RuntimeWarning,
        stacklevel=2,
    )
    return needs


def _structure(core: PlasticNetwork, dtype: torch.dtype) -> Any:
    """Return what the traced step depends on. The rates are arguments of the kernel."""
    settings = core.settings._replace(rate=0.0, decay=0.0)
    # A class attribute may have been set since the last call.
    attributes = [
        item for class_ in type(core.rule).__mro__ for item in vars(class_).items() if type(item[1]) in _NUMBERS
    ]
    rule = (type(core.rule), tuple(sorted(vars(core.rule).items())), tuple(attributes))
    sizes = (core.input_size, core.hidden_size, core.output_size, len(core.recurrent_layers))
    # Parameters may have been replaced. `core.parameters()` would take longer, at every step.
    parameters: list[Tensor | None] = []
    for module in core.modules():
        parameters += module._parameters.values()
        parameters += module._buffers.values()
    shapes = tuple([None if tensor is None else tensor.shape for tensor in parameters])
    seen: dict[int, int] = {}  # the step of a network that uses a parameter twice is another one
    places = tuple([seen.setdefault(id(tensor), place) for place, tensor in enumerate(parameters)])
    return rule, core.cell, sizes, settings, shapes, places, dtype
