"""Tracing: the forward pass of any network as a chain of steps, each of which takes the previous one's output.

A module's own forward is traced symbolically with its children as black boxes (torch.fx). A step is the part of that
trace between two points that a single tensor crosses: a child module, or the operations between two children, such as
a flattening, as a small graph of their own. Sequential containers and stages are split into their own steps in turn;
residual blocks remain whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx, nn

from localsl.core.settings import LocalslError

HEAVY = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


class Uncuttable(LocalslError, ValueError):
    """The network cannot be cut, at all or at the requested place; the message gives the reason."""


class Glue(nn.Module):
    """The operations between two children in a module's forward, as a function of one tensor.

    Attributes:
        path: the name of the module whose forward contains the operations.
    """

    def __init__(self, owner: nn.Module, path: str, graph: fx.Graph):
        super().__init__()
        self.path = path
        self.operations = fx.GraphModule(owner, graph, "Glue")

    def forward(self, x: Any) -> Any:
        """Apply the operations to `x`."""
        return self.operations(x)

    def refresh(self, model: nn.Module) -> None:
        """Use the model's current parameters and buffers, which moving the model may have replaced."""
        owner = model.get_submodule(self.path)
        for node in self.operations.graph.nodes:
            if node.op == "get_attr":
                prefix, _, name = node.target.rpartition(".")
                target, source = self.operations.get_submodule(prefix), owner.get_submodule(prefix)
                for kind in ("_parameters", "_buffers"):
                    if name in getattr(source, kind):
                        getattr(target, kind)[name] = getattr(source, kind)[name]


@dataclass
class Step:
    """A part of the forward pass between two points that a single tensor crosses.

    Attributes:
        name: the name of its module in the network; for glue, that of its last operation. Later calls of a module
            are numbered: relu, relu_1, relu_2.
        module: one of the network's modules, or `Glue`.
    """

    name: str
    module: nn.Module

    @cached_property
    def inner(self) -> list[Step]:
        """The steps of its module's own forward; empty if that is not a chain."""
        kind = type(self.module)
        builtin = kind.__module__.startswith("torch.nn") and not isinstance(self.module, nn.Sequential)
        if isinstance(self.module, Glue) or builtin or not any(True for _ in self.module.children()):
            return []
        try:
            return _chain(self.module, self.name)
        except Untraceable:
            return []

    @cached_property
    def heavy(self) -> int:
        """The number of its convolutions and linear layers."""
        return sum(isinstance(m, HEAVY) for m in self.module.modules())

    @cached_property
    def is_container(self) -> bool:
        """Whether it is split into its own steps: a sequential container, or a stage of blocks."""
        if isinstance(self.module, nn.Sequential):
            return bool(self.inner)
        if self.heavy < 2 or any(isinstance(step.module, Glue) and step.heavy for step in self.inner):
            return False  # one layer, or a residual block
        in_blocks = sum(step.heavy for step in _flat(self.inner, ()) if step.heavy > 1)
        return in_blocks > 0.6 * self.heavy


def steps(model: nn.Module, cuts: Iterable[str] = ()) -> list[Step]:
    """The chain of a network's steps, split down to blocks, and further where a name in `cuts` lies inside one.

    Raises:
        Uncuttable: if the network is not a chain of at least two steps, or cannot be cut at one of the cuts.
    """
    cuts = list(cuts)
    try:
        chain = _chain(model, "")
    except Untraceable as reason:
        raise Uncuttable(f"{type(model).__name__} cannot be cut: {reason}") from reason
    found = list(_flat(chain, cuts))
    ends = {step.name for step in found}
    for cut in cuts:
        if cut not in ends and not _was_split(found, cut):
            raise Uncuttable(_refusal(model, found, cut))
    if len(found) < 2:
        raise Uncuttable(f"{type(model).__name__} cannot be cut: its parts do not run one after another")
    return found


def position(found: list[Step], cut: str) -> int:
    """The index of the step before a cut: the step of that name, or the last one inside that module."""
    inside = [i for i, step in enumerate(found) if step.name == cut or step.name.startswith(f"{cut}.")]
    return inside[-1]


def _was_split(found: list[Step], cut: str) -> bool:
    """Whether the module of this name was split into steps, the last of which ends where the module does."""
    return bool(cut) and any(step.name.startswith(f"{cut}.") for step in found)


def _flat(chain: Iterable[Step], cuts: Iterable[str]) -> Iterator[Step]:
    for step in chain:
        cut_inside = any(cut.startswith(f"{step.name}.") for cut in cuts)
        if step.is_container or (cut_inside and step.inner):
            yield from _flat(step.inner, cuts)
        else:
            yield step


class Untraceable(Exception):
    """A module's own forward cannot be traced as a chain; the message gives the reason."""


class _Level(fx.Tracer):
    """A tracer of one module's forward that treats its children as black boxes."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def traced(module: nn.Module) -> fx.Graph:
    """The graph of a module's own forward with one input and all other arguments at their defaults.

    Raises:
        Untraceable: if the forward depends on values, or requires more than one argument.
    """
    forward = inspect.signature(type(module).forward)
    _, first, *others = [*forward.parameters.values(), None]
    extras = [p for p in others if p is not None and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    variadic = first is not None and first.kind in (first.VAR_POSITIONAL, first.VAR_KEYWORD)
    if first is None or variadic or any(p.default is p.empty for p in extras):
        raise Untraceable(f"the forward of {type(module).__name__} does not take one tensor")
    tracer = _Level()
    try:
        graph = tracer.trace(module, {p.name: p.default for p in extras})
    except Exception as error:  # a forward may fail in any way on a proxy of a tensor
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise Untraceable(f"the forward of {type(module).__name__} cannot be traced ({text})") from error
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for extra in placeholders[1:]:
        for user in [*extra.users, extra]:
            for assertion in [*user.users, user]:  # torch.fx asserts that extra arguments keep defaults
                if not assertion.users and assertion in graph.nodes:
                    graph.erase_node(assertion)
    return graph


def _constant(node: fx.Node) -> bool:
    """Whether a value depends on no input, so that every step can recompute it."""
    return node.op == "get_attr" or (
        node.op != "placeholder" and bool(node.all_input_nodes) and all(map(_constant, node.all_input_nodes))
    )


def _crossing(nodes: list[fx.Node], at: int) -> list[fx.Node]:
    """The values that are computed at or before node `at` and used after it."""
    later = set(nodes[at + 1 :])
    return [n for n in nodes[: at + 1] if not _constant(n) and any(user in later for user in n.users)]


def _chain(module: nn.Module, path: str) -> list[Step]:
    """The steps of a module's own forward, in order."""
    graph = traced(module)
    nodes = [
        node
        for node in graph.nodes
        if node.op != "output" and not (node.op == "call_function" and not node.users)
    ]
    (result,) = (node.args[0] for node in graph.nodes if node.op == "output")
    if not isinstance(result, fx.Node):
        raise Untraceable(f"the forward of {type(module).__name__} does not return one tensor")
    order = {node: i for i, node in enumerate(nodes)}
    ends = [i for i in range(len(nodes) - 1) if _crossing(nodes, i) == [nodes[i]]]
    if result is not nodes[-1]:
        ends = [i for i in ends if i < order[result]]
    names = _names(nodes)
    found, before = [], nodes[0]
    for end in [*(i for i in ends if i), order[result]]:
        part = nodes[order[before] + 1 : end + 1]
        name = f"{path}.{names[part[-1]]}" if path else names[part[-1]]
        found.append(_step(module, path, name, part, before))
        before = nodes[end]
    return found


def _names(nodes: list[fx.Node]) -> dict[fx.Node, str]:
    """A name for each node: its module's for the first call of a module, else torch.fx's, such as relu_1."""
    names: dict[fx.Node, str] = {}
    called = {node.target for node in nodes if node.op == "call_module"}
    for node in nodes:
        first = node.op == "call_module" and node.target not in names.values()
        names[node] = str(node.target) if first else node.name if node.name not in called else f"{node.name}_"
    return names


def _step(owner: nn.Module, path: str, name: str, nodes: list[fx.Node], before: fx.Node) -> Step:
    last = nodes[-1]
    working = [node for node in nodes if not _constant(node)]
    if len(working) == 1 and last.op == "call_module" and last.args == (before,) and not last.kwargs:
        return Step(name, owner.get_submodule(str(last.target)))
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {before: graph.placeholder("x")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    graph.output(copied(last))
    return Step(name, Glue(owner, path, graph))


def _refusal(model: nn.Module, found: list[Step], cut: str) -> str:
    """The reason why a network cannot be cut after a module: it has no such module, or another value crosses."""
    names = dict(model.named_modules())
    if cut not in names or not cut:
        import difflib

        near = difflib.get_close_matches(cut, list(names), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"cannot cut after {cut!r}: {type(model).__name__} has no module of this name{hint}"
    inside = max((s.name for s in found if cut.startswith(f"{s.name}.")), key=len, default="")
    while True:
        owner = names[inside]
        rest = cut.removeprefix(f"{inside}." if inside else "")
        try:
            graph = traced(owner)
        except Untraceable as reason:
            return f"cannot cut after {cut!r}, inside {inside or type(model).__name__!r}: {reason}"
        nodes = [node for node in graph.nodes if node.op != "output"]
        targets = [str(node.target) if node.op == "call_module" else "" for node in nodes]
        if rest in targets:
            break
        child = next((t for t in targets if t and rest.startswith(f"{t}.")), None)
        if child is None:
            return (
                f"cannot cut after {cut!r}: the forward of {inside or type(model).__name__!r} does not call it"
            )
        inside = f"{inside}.{child}" if inside else child
    at = len(targets) - 1 - targets[::-1].index(rest)
    others = [node for node in _crossing(nodes, at) if node is not nodes[at]]
    where = repr(inside) if inside else type(model).__name__
    if not others:
        return f"cannot cut after {cut!r}: it is the last step of {where}, or {where} itself cannot be split"
    other, later = others[0], set(nodes[at + 1 :])
    user = next(n for n in nodes if n in later and n in other.users)
    source = (
        f"the input of {where}" if other.op == "placeholder" else f"the output of {_described(other, inside)}"
    )
    return f"cannot cut after {cut!r}: {_described(user, inside)} also takes {source}"


def _described(node: fx.Node, inside: str) -> str:
    """The module or operation that computes a value, for an error message."""
    if node.op == "call_module":
        return repr(f"{inside}.{node.target}" if inside else str(node.target))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"'{name}' in {inside!r}" if inside else f"'{name}' in its forward"
