"""Processes that share out local modules do, bit for bit, what one process does."""

import os
from pathlib import Path

import pytest
import torch
from torch.multiprocessing import spawn

from localsl.config import ConfigError, compose
from localsl.core.objectives import open_cuts
from localsl.execution.balance import balanced
from localsl.runs import experiment
from localsl.runs.identity import run_directory, run_id
from tests.test_checkpoint import TINY, assert_same, left_by

pytestmark = pytest.mark.xdist_group("pipeline")  # whose fixture starts processes of its own

CASES = {
    "dgl": ["method=dgl"],
    "infopro": ["method=infopro"],
    "auglocal": ["method=auglocal", "aux.depth=3", "partition.join_last=false", "K=10"],
    "man": ["method=man", "K=10"],
    "predsim": ["method=predsim"],
    "predsim with dropout": ["method=predsim", "method.dropout=0.2"],
    "leap bridges": ["method=lam", "K=10"],
    "man, adam, lean": ["method=man", "aux_net=dgl", "K=10", "optimizer=adam", "memory=lean"],
    "man on infopro, per module": ["method=man", "aux_net=infopro", "K=10", "optimizer.per_module=true"],
    "man, copies": ["method=man", "ema.source=copy", "ema.bias=channel", "K=10"],
    "bf16": ["method=auglocal", "aux.depth=2", "precision=bf16", "K=10"],
    "layout": ["method=infopro", "channels_last=false"],
    "timm": ["method=dgl", "backbone=timm/resnet10t", "K=4", "dataset.image_size=16", "aux_net=dgl"],
}
FAST = ("dgl", "man", "infopro")


def settings(case):
    return [*TINY, "schedule.epochs=2", "threads=1", *CASES[case]]


def process(rank, size, port, cases):
    """One of several processes that train these cases one after another."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    for case in cases:
        experiment.run(compose([*settings(case), "parallel=modules", f"output_dir=of-{size}"]))


def agree(folder, cases, size, port):
    os.chdir(folder)
    spawn(process, (size, port, cases), nprocs=size)
    for case in cases:
        together, alone = compose([*settings(case), f"output_dir=of-{size}"]), compose(settings(case))
        experiment.run(alone)
        (state, metrics, record), (wanted, metrics_wanted, _) = left_by(together), left_by(alone)
        wanted["network"] = dict(wanted["network"])
        peaks = state.pop("stage_peaks_bytes")
        assert len(peaks) == size
        assert max(peaks) < wanted.pop("peak_memory_bytes")
        assert state.pop("peak_memory_bytes") == max(peaks) == record["peak_memory_bytes"]
        assert_same(state, wanted)
        assert_same(metrics, metrics_wanted)
