"""Recomputing cheap operations in the backward pass instead of keeping their results (`memory=lean`).

A convolution keeps its input for the gradient of its weights, and the BatchNorm before it keeps its own: two
tensors of one size, of which the one follows from the other by normalisation, an addition perhaps, and a ReLU.
Here only the convolutions' outputs are kept, and the ReLU's results are made again when they are asked for, by
the same operations on the same numbers: losses and gradients are equal bit for bit.
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

# A chain of residual blocks is made again from its first one: this many additions of it at most.
LONGEST = 4


@dataclass
class Recipe:
    """How to make a tensor again.

    Attributes:
        make: from what is kept.
        additions: how many residual additions that takes.
        uses: how often it is still to be asked for.
    """

    make: Callable[[], Tensor]
    additions: int = 0
    uses: int = 0
    made: Tensor | None = None

    def __call__(self) -> Tensor:
        """The tensor; kept between the first and the last use."""
        made = self.make() if self.made is None else self.made
        self.uses -= 1
        self.made = made if self.uses > 0 else None
        return made


class Lean(TorchFunctionMode):
    """Around a forward pass with gradients: what BatchNorm and ReLU make is not kept for the backward pass.

    It follows batch_norm -> (+ another tensor ->) relu in place, whatever modules they are called from; all
    else is kept as ever, and told to `watch`.
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
        self._recipes.clear()  # what is still needed, the graph holds

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
        if shortcut is not None and shortcut.additions < LONGEST:
            additions, again = shortcut.additions + 1, shortcut.make
        else:
            kept = other.detach()
            additions, again = 1, lambda: kept
        self._remember(out, Recipe(lambda: normalised.make().add_(again()), additions))

    def _rectified(self, x: Tensor) -> None:
        recipe = self._recipe(x)
        if recipe is not None:
            make = recipe.make
            # Before it happens: the ReLU itself keeps its result.
            self._remember(x, Recipe(lambda: make().relu_(), recipe.additions), changes=1)

    def _remember(self, tensor: Tensor, recipe: Recipe, changes: int = 0) -> None:
        storage = tensor.untyped_storage()
        self._recipes[storage._cdata] = StorageWeakRef(storage), _form(tensor, changes), recipe

    def _recipe(self, tensor: Tensor) -> Recipe | None:
        """Of this very tensor as it is now; an address is not used again while it is weakly referred to."""
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
    """Whether it was added as it is: not a number, not broadcast, not of another precision."""
    return isinstance(arg, Tensor) and (arg.dtype, arg.shape) == (out.dtype, out.shape)


def _form(tensor: Tensor, changes: int = 0) -> Form:
    """What tells a tensor from views of it, and from what it was before `changes` more in place."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor._version + changes


def _unpack(packed: Tensor | Recipe) -> Tensor:
    return packed() if isinstance(packed, Recipe) else packed
