"""Recomputing cheap operations in the backward pass instead of keeping their results (`memory=lean`).

A convolution keeps its input for the gradient of its weights, and the BatchNorm before it keeps its own input. Both
tensors have the same size, and the first follows from the second by normalisation, possibly an addition, and a ReLU.
Here only the outputs of convolutions are kept, and the outputs of BatchNorm and ReLU are recomputed in the backward
pass by the same operations on the same numbers, so losses and gradients are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Form = tuple[torch.dtype, torch.Size, tuple[int, ...], int]

# A chain of residual blocks is recomputed from its first one, through at most this many additions.
MAX_ADDITIONS = 4


@dataclass
class Recipe:
    """How to recompute a tensor.

    Attributes:
        make: recomputes it from tensors that are kept.
        additions: the number of residual additions in `make`.
        uses: how often the backward pass still needs the tensor.
        made: the recomputed tensor between its first and its last use.
    """

    make: Callable[[], Tensor]
    additions: int = 0
    uses: int = 0
    made: Tensor | None = None

    def __call__(self) -> Tensor:
        """Recompute the tensor at its first use, and free it at its last."""
        made = self.make() if self.made is None else self.made
        self.uses -= 1
        self.made = made if self.uses > 0 else None
        return made


class Lean(TorchFunctionMode):
    """A context for forward passes with gradients in which the outputs of BatchNorm and ReLU are not kept.

    It recognises batch_norm -> (+ another tensor ->) in-place relu, whichever modules call them. Other tensors are
    kept as usual, and `watch` is called with each.
    """

    def __init__(self, watch: Callable[[Tensor], object] = lambda tensor: None) -> None:
        super().__init__()
        self._watch = watch
        self._recipes: dict[int, tuple[StorageWeakRef, Form, Recipe]] = {}
        self._hooks: AbstractContextManager = ExitStack()

    def __enter__(self) -> Lean:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)
        self._hooks.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.__exit__(*error)
        self._recipes.clear()  # the graph holds those that it needs

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.relu_, Tensor.relu_) or (func is F.relu and kwargs.get("inplace")):
            self._rectified(args[0])
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        if func is F.batch_norm and kwargs["training"]:
            self._normalised(out, args[0], kwargs)
        elif func in ADDITIONS and not kwargs and all(_alike(arg, out) for arg in args):
            self._added(out, *args)
        return out

    def _normalised(self, out: Tensor, x: Tensor, settings: dict[str, Any]) -> None:
        x, weight, bias, eps = x.detach(), settings["weight"], settings["bias"], settings["eps"]

        def make() -> Tensor:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)

        self._remember(out, Recipe(make))

    def _added(self, out: Tensor, one: Tensor, other: Tensor) -> None:
        normalised, shortcut = self._recipe(one), self._recipe(other)
        if normalised is None:
            return
        if shortcut is not None and shortcut.additions < MAX_ADDITIONS:
            additions, make_other = shortcut.additions + 1, shortcut.make
        else:
            kept = other.detach()
            additions, make_other = 1, lambda: kept
        self._remember(out, Recipe(lambda: normalised.make().add_(make_other()), additions))

    def _rectified(self, x: Tensor) -> None:
        recipe = self._recipe(x)
        if recipe is not None:
            make = recipe.make
            # The recipe is registered before the ReLU runs, since the ReLU itself saves its result.
            self._remember(x, Recipe(lambda: make().relu_(), recipe.additions), changes=1)

    def _remember(self, tensor: Tensor, recipe: Recipe, changes: int = 0) -> None:
        storage = tensor.untyped_storage()
        self._recipes[storage._cdata] = StorageWeakRef(storage), _form(tensor, changes), recipe

    def _recipe(self, tensor: Tensor) -> Recipe | None:
        """The recipe of this version of a tensor. The weak reference keeps its address from being reused."""
        found = self._recipes.get(tensor.untyped_storage()._cdata)
        return found[2] if found is not None and found[1] == _form(tensor) else None

    def _pack(self, tensor: Tensor) -> Tensor | Recipe:
        recipe = self._recipe(tensor)
        if recipe is None:
            self._watch(tensor)
            return tensor
        recipe.uses += 1
        return recipe


ADDITIONS = (torch.add, Tensor.add, Tensor.__add__)


def _alike(arg: Any, out: Tensor) -> bool:
    """Whether a summand is a tensor of the output's shape and precision, without broadcasting or casting."""
    return isinstance(arg, Tensor) and (arg.dtype, arg.shape) == (out.dtype, out.shape)


def _form(tensor: Tensor, changes: int = 0) -> Form:
    """What distinguishes a tensor from its views and from other versions, after `changes` more in-place changes."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor._version + changes


def _unpack(packed: Tensor | Recipe) -> Tensor:
    return packed() if isinstance(packed, Recipe) else packed
