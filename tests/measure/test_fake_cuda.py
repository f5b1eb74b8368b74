"""What a step would do on a GPU, as far as tensors without data show it; and how many operations it takes."""

from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from localsl.config import compose
from localsl.network import build_network
from localsl.train import optim
from localsl.train.step import Totals, counted_step, training_forward

CUDA = torch.device("cuda", 0)
RULES = ["bp", "predsim", "dgl", "infopro", "auglocal aux.depth=3", "man", "mlaan", "lam aux_net=infopro"]


class OnDevice(TorchDispatchMode):
    """Fails at what a GPU cannot do without the host: operands on both, and copies from one to the other."""

    def __init__(self):
        super().__init__()
        self.half = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        told = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        hosts = [x for x in (*told, *made) if x.device.type != "cuda" and not (x in told and x.ndim == 0)]
        assert not hosts, f"{func} has {[tuple(x.shape) for x in hosts]} on the host"
        self.half += any(x.dtype == torch.bfloat16 for x in made)
        return out


@contextmanager
def cuda_pretended():
    """A GPU as far as torch's Python asks for one. Backward and update, which ask the driver, are left out."""

    def backward(loss):
        assert loss.device == CUDA
        assert loss.ndim == 0
        assert loss.requires_grad

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(Tensor, "backward", backward))
        patches.enter_context(mock.patch.object(optim, "sgd"))
        for name in ("is_available", "is_bf16_supported", "amp.common.amp_definitely_not_available"):
            answer = not name.endswith("not_available")
            patches.enter_context(mock.patch(f"torch.cuda.{name}", return_value=answer))
        yield


def moved(network):
    """The network's tensors, without data, on a GPU."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)
                    wanted = tensor.requires_grad
                    tensors[name] = nn.Parameter(fake, wanted) if isinstance(tensor, nn.Parameter) else fake
    return network


@pytest.mark.parametrize("how", [[], ["precision=bf16", "memory=lean"]], ids=["fp32", "bf16-lean"])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_stays_on_the_gpu_and_asks_it_nothing(rule, how):
    """Tensors without data cannot be asked for a value: `item`, `bool` and `nonzero` fail by themselves."""
    cfg = compose([*f"method={rule}".split(), "backbone=resnet20", "K=4", "device=cpu", *how])
    network, size = build_network(cfg).train(), cfg.dataset.image_size
    with FakeTensorMode(), cuda_pretended():
        moved(network)
        optimizer, totals = optim.build(network.parameters(), cfg.optimizer), Totals(network)
        step = counted_step(network, optimizer, totals, training_forward(cfg, CUDA))
        images = torch.empty(8, 3, size, size, device=CUDA)
        targets = torch.empty(8, dtype=torch.int64, device=CUDA)
        with OnDevice() as seen:
            step(images, targets)
    assert bool(seen.half) == bool(how)


def test_what_would_wait_for_the_gpu_or_mix_devices_is_seen():
    with FakeTensorMode(), cuda_pretended(), OnDevice():
        x = torch.ones(3, device=CUDA)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        with pytest.raises((AssertionError, RuntimeError)):
            x.cpu()
        with pytest.raises(AssertionError, match="on the host"):
            torch.ones(3)


class Count(TorchDispatchMode):
    """How many operations were asked for, views apart."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


# Of a second step of ResNet-20 with K=4, forward, backward, update and totals: kernels that a GPU launches, about.
BUDGETS = {
    "bp": 210,
    "bp_checkpoint": 322,
    "predsim": 420,
    "dgl": 381,
    "infopro": 364,
    "auglocal aux.depth=3": 381,
    "man": 516,
    "mlaan": 766,
    "mlaan_released": 682,
}


@pytest.mark.parametrize("rule", BUDGETS)
def test_a_step_takes_no_more_operations_than_it_did(rule):
    """Lower a budget when a step needs fewer."""
    cfg = compose([*f"method={rule}".split(), "backbone=resnet20", "K=4", "device=cpu"])
    network, size = build_network(cfg).train(), cfg.dataset.image_size
    optimizer, totals = optim.build(network.parameters(), cfg.optimizer), Totals(network)
    step = counted_step(network, optimizer, totals, training_forward(cfg, torch.device("cpu")))
    batch = torch.zeros(2, 3, size, size), torch.tensor([0, 1])
    step(*batch)
    with Count() as count:
        step(*batch)
    assert 0.9 * BUDGETS[rule] < count.number <= BUDGETS[rule]
