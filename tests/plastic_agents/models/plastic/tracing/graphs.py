"""Functions to trace, and an interpreter of their graphs."""

from __future__ import annotations

import ctypes
import subprocess

import torch
import torch.nn.functional as F
from plastic_agents.models.plastic.cells import LSTMCell, LSTMHidden
from plastic_agents.models.plastic.forms.compiled.build import COMMON_FLAGS, SOURCES, TUNING_FLAGS, compilers
from plastic_agents.models.plastic.forms.compiled.emit import emit, split_passes, view
from plastic_agents.models.plastic.tracing.derivatives import gradients
from plastic_agents.models.plastic.tracing.trace import Graph, ancestors
from torch import nn

SIZES = (1, 3, 17)
BATCH = 4
UNARY = {
    "neg": lambda x: -x,
    "square": torch.square,
    "sqrt": lambda x: (x.square() + 0.1).sqrt(),
    "rsqrt": lambda x: torch.rsqrt(x.square() + 0.1),
    "reciprocal": lambda x: torch.reciprocal(x + 20),
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda x: torch.log(x.abs() + 0.5),
    "log1p": lambda x: torch.log1p(x * x),
    "sigmoid": torch.sigmoid,
    "expit": torch.special.expit,
    "tanh": lambda x: x.tanh(),
    "relu": torch.relu,
    "F.relu": F.relu,
    "abs": torch.abs,
    "sign": torch.sign,
    "softplus": F.softplus,
    "softplus of a large value": lambda x: F.softplus(1000 * x),
    "softplus, sharp": lambda x: F.softplus(x, beta=3.0, threshold=2.0),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp below": lambda x: torch.clamp(x, min=0.1),
    "clamp above": lambda x: x.clamp_max(0.1),
    "cube": lambda x: x**3,
    "power 7": lambda x: torch.pow(x, 7),
    "power -2": lambda x: (x + 9) ** -2,
    "power 0": lambda x: x**0 + x,
    "power 0.5": lambda x: (x + 9).pow(0.5),
    "power -0.5": lambda x: (x + 9) ** -0.5,
    "numbers on the left": lambda x: 2 - 3 / (x + 20) + (1 + x) * 2,
    "where": lambda x: torch.where(x > 0.1, x, 0.0),
    "where of masks": lambda x: torch.where((x > -1) & ~(x >= 1) | (x != x), x.square(), x),
    "mask as a number": lambda x: x * (x > 0) + (x <= 0).float() * 2,
    "logical functions": lambda x: x * torch.logical_or(torch.logical_and(x > 0, x < 1), torch.logical_not(x > -1)),
    "equal": lambda x: torch.where(x == x, x, 0) + torch.where(torch.ne(x, x), 0, x),
    "sum": lambda x: x.sum(-1),
    "sum of square": lambda x: torch.sum(x.square(), dim=-1, keepdim=True),
    "sum of a mask": lambda x: (x > 0).sum(-1) * x.sum(-1),
    "mean": lambda x: x.mean(dim=-1, keepdim=True) * x,
    "mean of rank 1": lambda x: torch.mean(x, 1),
    "amax": lambda x: torch.amax(x, -1, keepdim=True) * x,
    "softmax": lambda x: torch.softmax(x, -1),
    "F.softmax": lambda x: F.softmax(x, dim=1),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "vector norm": lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x,
    "norm": lambda x: x.norm(dim=-1),
    "index": lambda x: x[:, -1] * x[..., 0],
    "slice": lambda x: x[..., : x.shape[-1] // 2 + 1] * 2,
    "narrow": lambda x: x.narrow(-1, x.size(-1) - 1, 1) * x,
    "overlapping slices": lambda x: x[:, : x.shape[1] // 2 + 1].sum(-1) + x[:, x.shape[1] // 3 :].square().sum(-1),
    "slice of a slice": lambda x: x[:, x.shape[1] // 3 :][:, : x.shape[1] // 3 + 1].square(),
    "slices that leave a gap": lambda x: x[:, :1] * x[:, -1:],
    "unsqueeze": lambda x: x.sum(-1).unsqueeze(-1) * x,
    "new axis": lambda x: x.sum(-1)[:, None] * x,
    "squeeze": lambda x: x.sum(-1, keepdim=True).squeeze(-1),
    "cat": lambda x: torch.cat([x, x.square(), x[:, :1]], dim=-1),
    "repeated part": lambda x: (p := x[:, :1].expand_as(x), torch.cat([p, x.tanh()], -1)),
    "slices of cat": lambda x: torch.concat([x.exp(), torch.cat([x, x.tanh()], -1)], 1)[:, 1 : 2 * x.shape[1]].square(),
    "chunk": lambda x: torch.chunk(x, 2, dim=-1)[0] * 2,
    "split": lambda x: torch.cat([p * i for i, p in enumerate(reversed(x.split(2, dim=-1)))], -1) + x,
    "zeros_like": lambda x: torch.zeros_like(x) + x,
    "full_like": lambda x: torch.full_like(x[:, -1], 0.5) * x.sum(-1),
    "ones_like": lambda x: torch.cat([torch.ones_like(x), x], -1),
    "zero-dimensional tensor": lambda x: x * torch.tensor(0.5),
    "detach": lambda x: x.detach() * x,
    "conversions": lambda x: x.clone().contiguous().to(x.dtype),
    "expand_as": lambda x: x.sum(-1, keepdim=True).expand_as(x).square() + x,
    "broadcasting": lambda x: x - x.sum(-1, keepdim=True) / (x[:, :1].square() + 1),
    "layers": nn.Sequential(nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.Softplus(), nn.Softmax(-1)),
}
BINARY = {
    "add": torch.add,
    "sub": lambda x, y: x.sub(y),
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / (y.abs() + 0.5),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where of two": lambda x, y: torch.where(x < y, x.tanh(), y),
    "where of numbers": lambda x, y: torch.where(torch.gt(x, y), x, y.sum(-1, keepdim=True)),
    "number and vector": lambda x, y: x.sum(-1, keepdim=True) * y + y[:, :1] / (1 + x.square()),
    "lstm": lambda q, c: torch.cat(flat(lstm(torch.cat([q, q.tanh(), q * c, q - c], -1), c, c)), -1),
}


# Each takes two parameters [n], a parameter [] and a matrix [n, 5] besides x [B, n].
WITH_PARAMETERS = {
    "vectors": lambda x, v, u, s, m: torch.sigmoid(v) * x + u / (1 + v.square()),
    "parameter on the left": lambda x, v, u, s, m: v - x * 2 + u.mul(x) + (2 - v) * x,
    "parameter alone": lambda x, v, u, s, m: v.softmax(-1) * x.sum(-1, keepdim=True) * torch.exp(u).sum(-1),
    "number": lambda x, v, u, s, m: x * F.softplus(s) + s,
    "number per sequence": lambda x, v, u, s, m: x.sum(-1) * s + s,
    "slices": lambda x, v, u, s, m: x[:, :1] * v[0] + v[..., -1] * u[:1] + x,
    "cat": lambda x, v, u, s, m: torch.cat([v, u])[: x.shape[-1] + 1].sum(-1) * x,
    "masks": lambda x, v, u, s, m: torch.where(v > 0, x, u) + torch.maximum(v, x),
    "full": lambda x, v, u, s, m: torch.zeros_like(x) + v,
    "matmul": lambda x, v, u, s, m: x @ m,
    "product twice": lambda x, v, u, s, m: torch.tanh((x * v) @ m) @ m.T + torch.matmul(x, m) @ m.t(),
    "linear": lambda x, v, u, s, m: F.linear(torch.relu(F.linear(x, m.T)), m, u),
}


def parameters(n, device="cpu"):
    """Return parameters for the functions `WITH_PARAMETERS`."""
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64, device=device)) for shape in ((n,), (n,), (), (n, 5))]


# Steps of random programs. Values and derivatives stay small, so that rounding errors do.
INSTRUCTIONS = [
    lambda a, b, c: torch.tanh(a - 0.7 * b * c),
    lambda a, b, c: torch.sigmoid(a) * (0.3 + b),
    lambda a, b, c: torch.relu(a + b),
    lambda a, b, c: a / (1 + b.square()),
    lambda a, b, c: torch.where((a > 0.123) | (b <= -0.7), b, c / 2),
    lambda a, b, c: a * (b > -0.456),
    lambda a, b, c: torch.maximum(a, b) - torch.minimum(b, c),
    lambda a, b, c: a.mean(-1, keepdim=True).tanh() * b,
    lambda a, b, c: (a * b).sum(-1, keepdim=True).tanh(),
    lambda a, b, c: torch.cat([a, b, c], -1)[..., b.shape[-1] // 2 :][..., : a.shape[-1]],
    lambda a, b, c: torch.cat([p.tanh() for p in reversed(a.split(2, -1))], -1) + b,
    lambda a, b, c: torch.cat([a[..., a.shape[-1] // 2 :] * 2, a[..., : a.shape[-1] // 2 + 1].exp().log1p()], -1)[
        ..., : a.shape[-1]
    ],
    lambda a, b, c: F.softplus(a) - c.abs(),
    lambda a, b, c: a[..., -1:] * b.clamp(-0.9, 1.1),
    lambda a, b, c: torch.softmax(a, -1) + (b.square() + 0.1).sqrt(),
    lambda a, b, c: F.normalize(a, dim=-1, eps=0.1) * c,
    lambda a, b, c: a.detach().tanh() * b,
]


def random_program(random, steps=12):
    """Return a function of a list of vectors that computes the last two of ``steps`` new ones."""
    choices = [(random.choice(INSTRUCTIONS), [random.random() for _ in range(3)]) for _ in range(steps)]

    def program(*values):
        values = list(values)
        for instruction, positions in choices:
            values.append(instruction(*(values[int(position * len(values))] for position in positions)))
        return values[-2:]

    return program


def lstm(q, h, c):
    return LSTMCell.forward(q, torch.zeros_like(q), LSTMHidden(h, c))


def flat(tree):
    """Return the leaves of nested tuples."""
    return [leaf for branch in tree for leaf in flat(branch)] if isinstance(tree, tuple | list) else [tree]


_PRODUCTS = {"project": lambda p, matrix: p @ matrix, "project_transposed": lambda p, matrix: p @ matrix.T}
_INTERPRETER = {
    "literal": lambda node: torch.tensor(node.attribute, dtype=torch.float64),
    "sum": lambda node, x: x.double().sum(-1, keepdim=True),
    "amax": lambda node, x: x.amax(-1, keepdim=True),
    "cat": lambda node, *parts: torch.cat(parts, -1),
    "slice": lambda node, x: x[..., node.attribute : node.attribute + node.length],
    "reshape": lambda node, x: x if node.dtype == torch.bool else x.double(),
    "expand": lambda node, x: x.reshape(-1, x.shape[-1]) if x.ndim and node.ndim == 2 else x,
    "detach": lambda node, x: x,
    "alias": lambda node, x: x,
    "transpose": lambda node, x: x.T,
    "outer": lambda node, *pairs: sum(p.T @ q for p, q in zip(pairs[::2], pairs[1::2], strict=True)),
}


def evaluate(values, tensors, externals=None):
    """Return the tensors of the values, from those of inputs and shared tensors and the functions of externals."""
    externals = {**_PRODUCTS, **(externals or {})}
    results = {}
    for node in ancestors(values):
        operands = [results[value] for value in node.inputs]
        if node.op in ("input", "shared"):
            result = tensors[node.attribute]
        elif node.op == "external":
            result = externals[node.attribute](*operands)
        elif node.op in _INTERPRETER:
            result = _INTERPRETER[node.op](node, *operands)
        else:
            result = getattr(torch, node.op)(*operands)
        shape = (BATCH, *node.shape[1:]) if node.batched else tuple(node.shape)
        results[node] = result.reshape(shape) if node.op == "reshape" else result.expand(shape)
        assert node.op == "expand" or result.numel() == results[node].numel()
    return [results[value] for value in values]


class Traced:
    """A function with its graph, gradients by the graph, and the outputs and gradients by torch.

    Each input has a random gradient of each output. ``values`` are the graph's outputs and gradients, ``wanted`` are
    torch's, and ``tensors`` are the tensors to evaluate the graph with.
    """

    def __init__(self, function, sizes, parameters=()):
        self.graph = Graph({f"parameter {i}": parameter for i, parameter in enumerate(parameters)}, torch.float64)
        torch.manual_seed(0)
        tensors = [torch.randn(BATCH, n, dtype=torch.float64, requires_grad=True) for n in sizes]
        inputs = [self.graph.input(f"x{i}", n) for i, n in enumerate(sizes)]
        self.tensors = {f"x{i}": tensor for i, tensor in enumerate(tensors)}
        self.tensors |= {f"parameter {i}": parameter for i, parameter in enumerate(parameters)}
        self.outputs = flat(self.graph.trace(function, *inputs, *parameters))
        wanted = flat(function(*tensors, *parameters))

        seeds = []
        for i, tensor in enumerate(wanted):
            self.tensors[f"d{i}"] = torch.randn(BATCH, tensor[0].numel(), dtype=torch.float64)
            seed = self.graph.input(f"d{i}", tensor[0].numel())
            seeds.append(seed.squeeze(-1) if tensor.ndim == 1 else seed)
        leaves = [*inputs, *map(self.graph.value, parameters)]
        found = gradients(list(zip(self.outputs, seeds, strict=True)), leaves)
        self.gradients = [value for value in found if value is not None]

        leaves = [*tensors, *parameters]
        pairs = [(tensor, self.tensors[f"d{i}"].reshape(tensor.shape)) for i, tensor in enumerate(wanted)]
        pairs = [(tensor, d) for tensor, d in pairs if tensor.requires_grad]
        by_torch = [None] * len(leaves)
        if pairs:
            by_torch = torch.autograd.grad([y for y, _ in pairs], leaves, [d for _, d in pairs], allow_unused=True)
        self.used_parameters = {f"parameter {i}" for i, d in enumerate(by_torch[len(sizes) :]) if d is not None}
        self.wanted_outputs = [tensor.detach() for tensor in wanted]
        self.wanted_gradients = [d for d, value in zip(by_torch, found, strict=True) if value is not None]
        assert not any(d.any() for d, value in zip(by_torch, found, strict=True) if value is None and d is not None)

    def check(self, outputs, gradients, tolerance=1e-12):
        """Compare with torch; sum the gradients of parameters over sequences."""
        for result, wanted in zip(outputs, self.wanted_outputs, strict=True):
            assert result.shape == wanted.shape
            torch.testing.assert_close(result, wanted, rtol=tolerance, atol=tolerance, check_dtype=False)
        for result, wanted, value in zip(gradients, self.wanted_gradients, self.gradients, strict=True):
            if value.op != "outer" and wanted is not None and wanted.ndim < 2:
                result = result.sum(0).reshape(wanted.shape)
            wanted = torch.zeros_like(result) if wanted is None else wanted
            torch.testing.assert_close(result, wanted, rtol=tolerance, atol=tolerance, check_dtype=False)


class CProgram:
    """The C code of one graph, with a forward and a backward function for one sequence.

    Memory that the forward pass leaves behind is NaN in the backward pass, except the tape.
    """

    def __init__(self, name, outputs, gradients):
        self.name, self.outputs, self.gradients = name, outputs, gradients
        self.passes = split_passes(outputs, gradients)
        self.offsets, self.size, self.lengths = {}, 0, []
        taped, parts = self.passes.taped, self.passes.parts
        self.blocks = [
            emit(self.passes.forward, [*taped, *outputs], self.place, self.length, parts=parts),
            emit(self.passes.backward, gradients, self.place, self.length, parts=parts),
        ]
        for value in (*outputs, *gradients, *taped, *(v for v in self.passes.forward if v.op in ("input", "shared"))):
            self.pointer(value)

    def place(self, value):
        if value not in self.offsets:
            self.offsets[value] = self.size
            self.size += value.length + 1  # the entry between two values must stay NaN
        return f"memory + {self.offsets[value]}"

    def length(self, number):
        self.lengths = self.lengths if number in self.lengths else [*self.lengths, number]
        return f"n[{self.lengths.index(number)}]"

    def pointer(self, value):
        base, offset, _ = view(value, self.passes.parts)
        return f"{self.place(base)} + {offset}"

    def source(self):
        functions = []
        for direction, blocks in zip(("forward", "backward"), self.blocks, strict=True):
            body = [block if isinstance(block, str) else self.product(block) for block in blocks]
            head = f"void {self.name}_{direction}(real *memory, const int64_t *restrict n)"
            functions.append("\n".join([head, "{", "(void)memory, (void)n;", *body, "}"]))
        return "\n".join(functions)

    def product(self, value):
        vector, matrix = value.inputs
        rows, columns = matrix.shape
        x, m, y = (self.pointer(v) for v in (vector, matrix, value))
        entry = f"m[i * {columns} + j]"
        line = f"y[j] += x[i] * {entry};" if value.attribute == "project" else f"y[i] += x[j] * {entry};"
        return (
            f"{{ real *x = {x}, *m = {m}, *y = {y}; for (int i = 0; i < {value.length}; i++) y[i] = 0;\n"
            f"for (int i = 0; i < {rows}; i++) for (int j = 0; j < {columns}; j++) {line} }}"
        )

    def run(self, library, tensors, dtype):
        """Return the outputs and gradients, each [B, n]."""
        known = [value for value in self.offsets if value.op in ("input", "shared")]
        lengths = torch.tensor(self.lengths or [0])
        results = []
        for b in range(BATCH):
            memory = torch.full((self.size,), torch.nan, dtype=dtype)
            for value in known:
                tensor = tensors[value.attribute][b] if value.batched else tensors[value.attribute]
                memory[self.offsets[value] :][: value.length] = tensor.detach().flatten()
            self._call(library, "forward", memory, lengths)
            found = [self._read(memory, value) for value in self.outputs]
            tape = torch.full_like(memory, torch.nan)
            for value in (*known, *self.passes.taped):
                tape[self.offsets[value] :][: value.length] = memory[self.offsets[value] :][: value.length]
            self._call(library, "backward", tape, lengths)
            gaps = [offset + value.length for value, offset in self.offsets.items()]
            assert memory[gaps].isnan().all()
            assert tape[gaps].isnan().all()
            results.append([*found, *(self._read(tape, value) for value in self.gradients)])
        return [torch.stack(tensors) for tensors in zip(*results, strict=True)]

    def _call(self, library, direction, memory, lengths):
        function = getattr(library, f"{self.name}_{direction}")
        function(ctypes.c_void_p(memory.data_ptr()), ctypes.c_void_p(lengths.data_ptr()))

    def _read(self, memory, value):
        base, offset, length = view(value, self.passes.parts)
        return memory[self.offsets[base] + offset :][:length].clone()


def compile_programs(directory, programs, c_type):
    """Return the library of the programs."""
    source = directory / f"programs_{c_type}.c"
    lines = [f"typedef {c_type} real;", '#include "functions.h"', *(program.source() for program in programs)]
    source.write_text("\n".join(lines))
    compiler = next(compilers())
    tuning = next(flags for flags in TUNING_FLAGS if _works(compiler, flags, directory))
    flags = [*COMMON_FLAGS, *tuning, "-Wall", "-Werror", "-Wno-pass-failed", f"-I{SOURCES}"]
    library = directory / f"programs_{c_type}.so"
    subprocess.run([*compiler, *flags, str(source), "-o", str(library), "-lm"], check=True)
    return ctypes.CDLL(str(library))


def _works(compiler, flags, directory):
    empty = directory / "empty.c"
    empty.write_text("")
    command = [*compiler, *COMMON_FLAGS, *flags, str(empty), "-o", str(directory / "empty.so")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
