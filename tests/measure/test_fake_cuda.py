"""Fake tensors show that a training step stays on the GPU and never waits for it; its operations are counted."""

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
RULES = ["bp", "predsim", "dgl", "infopro", "auglocal aux.depth=3", "man", "man_released"]
RULES += ["mlaan", "mlaan_released", "mlm", "lam aux_net=infopro"]
FP32, BF16, BF16_LEAN = [], ["precision=bf16"], ["precision=bf16", "memory=lean"]
STEPS = [(rule, settings) for rule in RULES for settings in (FP32, BF16_LEAN)]
STEPS += [("bp_checkpoint", FP32), ("bp_checkpoint", BF16)]  # which recomputes everything, without memory=lean


class OnDevice(TorchDispatchMode):
    """Fail on operations that need the host: tensors on both devices, and copies between them.

    Attributes:
        in_bf16: the number of operations that returned a bfloat16 tensor.
    """

    def __init__(self):
        super().__init__()
        self.in_bf16 = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        scalars = {id(x) for x in operands if x.ndim == 0}  # kernels take scalars from the host
        hosts = [x for x in (*operands, *results) if x.device.type != "cuda" and id(x) not in scalars]
        assert not hosts, f"{func} has {[tuple(x.shape) for x in hosts]} on the host"
        self.in_bf16 += any(x.dtype == torch.bfloat16 for x in results)
        return out


@contextmanager
def fake_cuda():
    """Make torch's Python code find a GPU. The backward pass and the update, which need its driver, do nothing."""

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


def move_to_fake_cuda(network):
    """Replace the network's parameters and buffers by fake tensors on a GPU."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)
                    is_parameter, trained = isinstance(tensor, nn.Parameter), tensor.requires_grad
                    tensors[name] = nn.Parameter(fake, trained) if is_parameter else fake


@pytest.mark.parametrize(("rule", "settings"), STEPS, ids=lambda x: x if isinstance(x, str) else "-".join(x))
def test_a_step_stays_on_the_gpu_and_does_not_wait_for_it(rule, settings):
    """Fake tensors have no values, so that `item`, `bool` and `nonzero` fail by themselves."""
    cfg = compose([*f"method={rule}".split(), "backbone=resnet20", "K=4", "device=cpu", *settings])
    network, size = build_network(cfg).train(), cfg.dataset.image_size
    with FakeTensorMode(), fake_cuda():
        move_to_fake_cuda(network)
        optimizer, totals = optim.build(network.parameters(), cfg.optimizer), Totals(network)
        step = counted_step(network, optimizer, totals, training_forward(cfg, CUDA))
        images = torch.empty(8, 3, size, size, device=CUDA)
        targets = torch.empty(8, dtype=torch.int64, device=CUDA)
        with OnDevice() as operations:
            step(images, targets)
    assert bool(operations.in_bf16) == bool(settings)


def test_the_check_fails_on_synchronisation_and_mixed_devices():
    with FakeTensorMode(), fake_cuda(), OnDevice():
        x = torch.ones(3, device=CUDA)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        with pytest.raises((AssertionError, RuntimeError)):
            x.cpu()
        with pytest.raises(AssertionError, match="on the host"):
            torch.ones(3)


class Count(TorchDispatchMode):
    """Count operations other than views."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


# Operations in the second step of ResNet-20 with K=4: forward, backward, update and totals. A GPU launches about as
# many kernels.
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
def test_a_step_stays_within_its_budget_of_operations(rule):
    """The test fails also where a step needs far fewer operations, so that its budget is lowered."""
    cfg = compose([*f"method={rule}".split(), "backbone=resnet20", "K=4", "device=cpu"])
    network, size = build_network(cfg).train(), cfg.dataset.image_size
    optimizer, totals = optim.build(network.parameters(), cfg.optimizer), Totals(network)
    step = counted_step(network, optimizer, totals, training_forward(cfg, torch.device("cpu")))
    batch = torch.zeros(2, 3, size, size), torch.tensor([0, 1])
    step(*batch)
    with Count() as count:
        step(*batch)
    assert 0.9 * BUDGETS[rule] < count.number <= BUDGETS[rule]
