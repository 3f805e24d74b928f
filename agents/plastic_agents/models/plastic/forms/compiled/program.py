"""The step of a plastic network as a graph: vector work, and the matrix work between.

`trace_step` runs the step's own Python on `Value` objects and adds the derivatives. Shape letters: B sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from plastic_agents.models.plastic.forms.dense import SlowLayer
from plastic_agents.models.plastic.rule import FastLayer, MatrixUpdate, Update
from plastic_agents.models.plastic.step import network_step
from plastic_agents.models.plastic.tracing.derivatives import gradients, outer_products
from plastic_agents.models.plastic.tracing.trace import Graph, UntraceableError, Value

LINE_BYTES = 64  # columns are padded to whole cache lines, which are whole vectors on every CPU

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork


class Product(NamedTuple):
    """An operation on a matrix: q = p (W~ + W), or transposed v = (W~ + W) d.

    Attributes:
        matrix: number of the matrix.
        transposed: whether the operation is v = (W~ + W) d.
        bias: whether p has a 1 for the row of the bias.
        fast: whether the operation leaves out W~.
        backward: whether it belongs to the backward pass.
        parts: whether q is two vectors, p W~ with the biases and p W, of which the second begins at a new cache line.
            The operand of the transposed operation is two vectors likewise, and v = W~ d_0 + W d_1.
    """

    matrix: int
    transposed: bool = False
    bias: bool = False
    fast: bool = False
    backward: bool = False
    parts: bool = False


class OuterProduct(NamedTuple):
    """An outer product rows (x) cols, which the gradient of a matrix gets from an operation in the step."""

    rows: Value
    cols: Value
    operation: Product
    result: Value  # of the operation's backward pass


class MatrixSize(NamedTuple):
    """Rows and columns of a matrix, without padding; ``bias`` says whether the last row is a layer's bias."""

    rows: int
    cols: int
    bias: bool


@dataclass
class MatrixWrite:
    """The update of a matrix, ``W <- keep W + rate alpha (pre (x) post)``, or with factors of columns for ``keep``.

    Another matrix, of number ``added``, may be added with a coefficient, ``coefficient alpha S``.
    """

    pre: Value
    post: Value
    rate: Value
    keep: Value
    columns: Value | None = None
    added: int | None = None
    coefficient: Value | None = None


@dataclass
class Program:
    """A step, forward and backward.

    Attributes:
        graph: of all values.
        sizes: of the matrices: those of the plastic layers, then those of the rule's state.
        names: of the matrices: the layer, and the name in the rule's state or None.
        writes: the update of each matrix.
        pairs: for each matrix, the outer products of which its gradient is the sum, in the order of the backward pass.
        inputs: inputs of the step, by name: ``x``, and what is carried from step to step.
        carry: the next values of what is carried, in the order of ``carry_names``.
        carry_names: names of the inputs that are carried: (field of the hidden state, recurrent layer) or (name in the
            rule's state, layer).
        readout, eta: results of the step.
        smallest_keep: the smallest factor by which an update keeps an element.
        tangents: inputs of the backward pass, by name.
        gradients: results of the backward pass, by the name of the input or of the parameter.
        shared: names of the vectors and numbers that all sequences share, with their lengths.
        projections: names of the matrices that all sequences share, with their shapes.
        projection_pairs: for each, the outer products of which its gradient is the sum.
        flipped: the projections that are transposed in memory, because the step multiplies by their transpose, as
            ``nn.Linear`` does.
    """

    graph: Graph
    sizes: list[MatrixSize]
    names: list[tuple[str, str | None]]
    writes: list[MatrixWrite] = field(default_factory=list)
    pairs: list[list[OuterProduct]] = field(default_factory=list)
    inputs: dict[Any, Value] = field(default_factory=dict)
    carry: list[Value] = field(default_factory=list)
    carry_names: list[Any] = field(default_factory=list)
    readout: Any = None
    eta: Any = None
    smallest_keep: Any = None
    tangents: dict[Any, Value] = field(default_factory=dict)
    gradients: dict[Any, Value | None] = field(default_factory=dict)
    shared: dict[str, Value] = field(default_factory=dict)
    projections: dict[str, Value] = field(default_factory=dict)
    projection_pairs: dict[str, list[tuple[Value, Value]]] = field(default_factory=dict)
    flipped: set[str] = field(default_factory=set)

    def projection_shape(self, name: str) -> tuple[int, int]:
        """Return the rows and columns of a projection in memory."""
        rows, cols = self.projections[name].shape
        return (cols, rows) if name in self.flipped else (rows, cols)


class _TracedLayer:
    """A plastic layer whose products are operations of the graph."""

    def __init__(self, program: Program, tracer: _Products, name: str) -> None:
        self.program, self.tracer, self.name = program, tracer, name
        self.matrix = program.names.index((name, None))
        self.cols = program.sizes[self.matrix].cols
        self.operand: Any = None  # of the first product

    def read(self, p: Any) -> Any:
        if self.operand is None:
            self.operand = self.program.graph.value(p)
            if self.matrix in self.tracer.in_parts:
                slow, fast = self._parts()
                return slow + fast
        return self.tracer.product(Product(self.matrix, bias=True), p)

    def _parts(self) -> tuple[Value, Value]:
        """Return p W~ with the biases, and p W, for the operand of the first product."""
        start = round_up(self.cols, self.tracer.line)
        both = self.tracer.product(Product(self.matrix, bias=True, parts=True), self.operand, start + self.cols)
        graph = self.program.graph
        return graph.slice(both, 0, self.cols), graph.slice(both, start, start + self.cols)

    def read_fast(self, p: Any) -> Any:
        p, factor = without_factors(self.program.graph.value(p))
        if p is self.operand:
            self.tracer.wanted.add(self.matrix)
            if self.matrix in self.tracer.in_parts:
                return factor(self._parts()[1])
        return factor(self.tracer.product(Product(self.matrix, fast=True), p))

    def read_transposed(self, d: Any) -> Any:
        return self.tracer.product(Product(self.matrix, transposed=True), d)

    def read_state(self, name: str, p: Any) -> Any:
        return self.tracer.product(Product(self.program.names.index((self.name, name)), fast=True), p)


def without_factors(p: Value) -> tuple[Value, Callable[[Any], Any]]:
    """Return a vector without the numbers by which it was multiplied or divided, and the function that applies them."""
    if p.op not in ("mul", "div") or p.length == 1:
        return p, lambda result: result
    vector, number = p.inputs[::-1] if p.op == "mul" and p.inputs[0].length == 1 else p.inputs
    if number.length > 1 or not vector.batched:
        return p, lambda result: result
    base, inner = without_factors(vector)
    return base, lambda result: inner(result) * number if p.op == "mul" else inner(result) / number


class _Products:
    """Adds products to the graph, and remembers the outer products of their backward passes.

    Attributes:
        line: numbers in a cache line.
        in_parts: matrices whose first product is made in two parts, see `Product`.
        wanted: matrices for which this saves a product, because the rule reads p W with the p of the first product.
        differentiated: matrices of which the step itself reads the gradient, which can't be made in parts.
    """

    def __init__(self, program: Program, line: int, in_parts: set[int]) -> None:
        self.program, self.line, self.in_parts, self.backward = program, line, in_parts, False
        self.wanted, self.differentiated = set[int](), set[int]()

    def product(self, operation: Product, operand: Any, length: int | None = None) -> Value:
        graph, size = self.program.graph, self.program.sizes[operation.matrix]
        operand = graph.value(operand)
        if length is None:
            length = size.rows - size.bias if operation.transposed else size.cols

        def adjoint(d: Value) -> list[Value]:
            back = operation._replace(transposed=not operation.transposed, bias=False, backward=self.backward)
            if not self.backward:
                self.differentiated.add(operation.matrix)
            result = self.product(back, d)
            if self.backward:
                rows, cols = (d, operand) if operation.transposed else (operand, d)
                self.program.pairs[operation.matrix].append(OuterProduct(rows, cols, operation, result))
            return [result]

        return graph.external(operation, [operand], length, adjoint)


class _TracedCore:
    """A network as `network_step` reads it, whose hidden state is a list with an entry for each recurrent layer."""

    def __init__(self, core: PlasticNetwork, rate: Value, decay: Value) -> None:
        self._core, self.settings = core, core.settings._replace(rate=rate, decay=decay)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def split_hidden(self, hidden: Any) -> Any:
        return hidden

    def join_hidden(self, hiddens: Any) -> Any:
        return hiddens

    def pad_extra(self, name: str, d: Any) -> Any:
        extra = self._core.layers[name].out_features - d.length
        return d.graph.cat([d, d.graph.expand(d.graph.value(0), (1, extra), True)]) if extra else d


def trace_step(core: PlasticNetwork, dtype: torch.dtype) -> Program:
    """Return the step of a network, forward and backward.

    Raises:
        UntraceableError: the rule or the cell does something that has no form in C.
    """
    matrices: dict[tuple[str, str | None], MatrixSize] = {}  # the layers' own come first
    for name in core.rule_shapes:
        n_in, n_out = core.layers[name].weight.shape
        matrices[name, None] = MatrixSize(n_in + 1, n_out, bias=True)
    for name, shapes in core.rule_shapes.items():
        matrices |= {(name, key): MatrixSize(*shape, bias=False) for key, shape in shapes.items() if len(shape) == 2}

    def trace_forward(in_parts: set[int]) -> _Products:
        program = Program(Graph(_shared_tensors(core, dtype), dtype), list(matrices.values()), list(matrices))
        program.pairs = [[] for _ in matrices]
        products = _Products(program, LINE_BYTES // dtype.itemsize, in_parts)
        program.graph.trace(_trace_forward, core, program, products)
        return products

    products = trace_forward(set())
    if products.wanted - products.differentiated:
        products = trace_forward(products.wanted - products.differentiated)
    products.backward = True
    products.program.graph.trace(_trace_backward, products.program)
    return products.program


def _shared_tensors(core: PlasticNetwork, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the parameters of a network, and the buffers of its rule, which may change as well."""
    buffers = dict(core.rule_parameters.named_buffers(prefix="rule_parameters"))
    for name, buffer in buffers.items():
        if buffer.dtype != dtype:
            raise UntraceableError(f"the buffer {name} must be {dtype}, got {buffer.dtype}")
    return {**dict(core.named_parameters()), **buffers}


def _trace_forward(core: PlasticNetwork, program: Program, products: _Products) -> None:
    graph = program.graph
    x = program.inputs["x"] = graph.input("x", core.input_size)
    hidden = []
    for number in range(len(core.recurrent_layers)):
        leaves = {field: graph.input(f"{field}.{number}", core.hidden_size) for field in core.cell.Hidden._fields}
        program.inputs |= {(field, number): leaf for field, leaf in leaves.items()}
        hidden.append(core.cell.Hidden(**leaves))
    vectors: dict[str, dict[str, Any]] = {}
    for name, shapes in core.rule_shapes.items():
        vectors[name] = {key: graph.input(f"{name}.{key}", *shape) for key, shape in shapes.items() if len(shape) == 1}
        program.inputs |= {(key, name): leaf for key, leaf in vectors[name].items()}
    program.carry_names = list(program.inputs)[1:]
    layers: dict[str, FastLayer] = {
        name: _TracedLayer(program, products, name) if layer.plastic else SlowLayer(layer)
        for name, layer in core.layers.items()
    }
    rate, decay = (graph.node("input", (), (), False, f"settings.{name}") for name in ("rate", "decay"))
    traced_core: Any = _TracedCore(core, rate, decay)
    arguments: tuple[Any, ...] = (vectors, x, hidden)
    result = network_step(traced_core, layers, *arguments)
    program.readout, program.eta = graph.value(result.readout), graph.value(result.eta)
    after: dict[Any, Any] = {
        (field, number): leaf for number, h in enumerate(result.hidden) for field, leaf in h._asdict().items()
    }
    for name, update in result.updates.items():
        after |= {(key, name): value for key, value in update.state.items() if not isinstance(value, MatrixUpdate)}
    program.carry = [graph.value(after[name]) for name in program.carry_names]
    for name, key in program.names:
        update = result.updates[name]
        write = _layer_write(program, name, update) if key is None else _write(graph, update.state[key])
        program.writes.append(write)
    program.smallest_keep = _smallest_keep(program)


def _layer_write(program: Program, name: str, update: Update) -> MatrixWrite:
    graph = program.graph
    if update.keep_rows is not None or len(update.add) + (update.keep_columns is not None) > 1:
        raise UntraceableError(
            "the compiled form supports only one of Update.keep_columns and one matrix in Update.add, and no "
            "Update.keep_rows"
        )
    write = _write(graph, update)
    if update.keep_columns is not None:
        write.columns = write.keep * graph.value(update.keep_columns)
    for key, coefficient in update.add.items():
        write.added, write.coefficient = program.names.index((name, key)), graph.value(coefficient)
    return write


def _write(graph: Graph, update: Any) -> MatrixWrite:
    pre, post, rate, keep = (graph.value(getattr(update, name)) for name in ("pre", "post", "rate", "keep"))
    return MatrixWrite(pre, post, rate, keep)


def _smallest_keep(program: Program) -> Value:
    graph, smallest = program.graph, None
    for write in program.writes:
        keep = write.keep if write.columns is None else -graph.reduce("amax", -write.columns)
        keep = graph.detach(keep)
        smallest = keep if smallest is None else graph.elementwise("minimum", smallest, keep)
    assert smallest is not None
    return graph.expand(smallest, (1, 1), True)


def _trace_backward(program: Program) -> None:
    graph = program.graph

    def tangent(name: Any, length: int) -> Value:
        program.tangents[name] = graph.input(f"d {name}", length)
        return program.tangents[name]

    outputs = [(program.readout, tangent("readout", program.readout.length)), (program.eta, tangent("eta", 1))]
    for name, value in zip(program.carry_names, program.carry, strict=True):
        outputs.append((value, tangent(name, value.length)))
    for number, write in enumerate(program.writes):
        outputs += [
            (write.pre, write.rate * tangent(("alpha_post", number), write.pre.length)),
            (write.post, write.rate * tangent(("alpha_pre", number), write.post.length)),
            (write.rate, tangent(("d_rate", number), 1)),
        ]
        if write.columns is None:
            outputs.append((write.keep, tangent(("d_keep", number), 1)))
        else:
            outputs.append((write.columns, tangent(("d_columns", number), write.columns.length)))
        if write.coefficient is not None:
            outputs.append((write.coefficient, tangent(("d_coefficient", number), 1)))
    shared = {value.attribute: value for value in graph.values if value.op == "shared"}
    wanted = {**program.inputs, **shared}
    results = dict(zip(wanted, gradients(outputs, list(wanted.values())), strict=True))
    program.projections = {name: value for name, value in shared.items() if value.ndim == 2}
    operations = [value for value in graph.values if value.op == "external" and isinstance(value.attribute, str)]
    for name, matrix in program.projections.items():
        first = next((value for value in operations if value.inputs[1] is matrix), None)
        if first is not None and first.attribute == "project_transposed":
            program.flipped.add(name)
    program.shared = {name: value for name, value in shared.items() if value.ndim < 2}
    settings = [value for value in graph.values if value.op == "input" and not value.batched]
    program.shared |= {value.attribute: value for value in settings}
    for name in program.projections:
        gradient = results.pop(name)
        pairs = [] if gradient is None else outer_products(gradient)
        program.projection_pairs[name] = [pair[::-1] for pair in pairs] if name in program.flipped else pairs
    program.gradients = results


def round_up(size: int, multiple: int) -> int:
    """Return ``size`` rounded up to a multiple of ``multiple``."""
    return -(-size // multiple) * multiple


def parameter(core: PlasticNetwork, name: str) -> Tensor:
    """Return a parameter of the network or one of its settings, by the name that it has in a `Program`."""
    if name.startswith("settings."):
        weight = core.readout.weight
        return weight.new_tensor(getattr(core.settings, name.removeprefix("settings.")))
    module, _, key = name.rpartition(".")
    tensor: Tensor = getattr(core.get_submodule(module), key)  # torch.func.functional_call may set a plain tensor
    return tensor
