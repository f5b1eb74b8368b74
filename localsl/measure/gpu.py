"""`make gpu`: all that is to be known on a machine with a GPU, within ten minutes, a file for each part.

    python -m localsl.measure.gpu [FOLDER]

FOLDER is $OUT, or results/bench. A part that fails or takes too long does not stop the others; the exit code is
then 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from localsl.config.building import build_network
from localsl.config.validation import compose
from localsl.execution import devices
from localsl.measure.bench import slug
from localsl.measure.footprint import batch_of_zeros
from localsl.train import optim
from localsl.train.step import train_step, training_forward

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, str(ROOT / "run.py")]
SETTING = ["dataset=cifar10", "backbone=resnet32", "K=16", "batch_size=1024"]
RULES = "method=bp,predsim,dgl,infopro,man,mlaan"
FAST = ["measure=speed", "method=dgl", "compile=false,true", "cuda_graph=false,true"]


@dataclass(frozen=True)
class Part:
    """A command, what its output is called, and the seconds that it may take."""

    name: str
    command: list[str]
    limit: int


def parts(folder: Path) -> list[Part]:
    """What is run, in turn: the figures first, the long test suite last."""
    results = folder.parent if folder.name == "bench" else folder  # speeds go to RESULTS_DIR/bench
    here = [*SETTING, f"output_dir={ROOT}/outputs/gpu", f"results_dir={results}"]
    memory = [*RUN, "-m", "measure=memory", *here]
    speed = [*RUN, "-m", "measure=speed", *here]
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return [
        Part("cuda-tests", [*tests, "tests/test_cuda.py"], 90),
        Part("speed", [*speed, RULES], 100),
        Part("speed-auglocal", [*speed, "method=auglocal", "aux.depth=3,6"], 30),
        Part("speed-fast", [*RUN, "-m", *FAST, *here], 100),
        Part("speed-bf16", [*speed, "method=bp,dgl", "precision=bf16"], 30),
        Part("bench", [*RUN, "show=bench", *here], 15),
        Part("memory", [*memory, RULES], 60),
        Part("memory-auglocal", [*memory, "method=auglocal", "aux.depth=2,6"], 30),
        Part("profile", [sys.executable, "-m", "localsl.measure.gpu", "--profile"], 25),
        Part("tests", [*tests, "-n", str(os.cpu_count() or 1), "-m", "not slow"], 120),
    ]


def run(part: Part, folder: Path) -> bool:
    """Run a part, its output into FOLDER/gpu-<name>.txt; whether it ended well."""
    file, began = folder / f"gpu-{part.name}.txt", time.perf_counter()
    with file.open("w") as out:
        try:
            code = subprocess.run(
                part.command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, timeout=part.limit
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    ended = "took too long" if code is None else "done" if code == 0 else f"failed ({code})"
    print(f"{part.name:<16} {ended:<14} {time.perf_counter() - began:6.1f} s  {file}", flush=True)
    return code == 0


def profiled() -> str:
    """A table of where the time of one training step goes: AugLocal d=3, kernels by their total time."""
    cfg = compose(["method=auglocal", "aux.depth=3", *SETTING])
    device = devices.chosen(cfg.device)
    devices.prepare(device)
    network = build_network(cfg).train()
    devices.place(network, cfg, device)
    optimizer = optim.build(network.parameters(), cfg.optimizer)
    images, targets = batch_of_zeros(cfg, device)

    def step() -> None:
        for _ in train_step(network, optimizer, images, targets, training_forward(cfg, device)):
            pass

    for _ in range(5):
        step()
    cuda = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as found:
        step()
        if cuda:
            torch.cuda.synchronize(device)
    by = "cuda_time_total" if cuda else "cpu_time_total"
    return found.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=60)


def main(arguments: list[str]) -> int:
    """All parts, or with --profile the one that this file does itself."""
    if arguments == ["--profile"]:
        print(profiled())
        return 0
    if not torch.cuda.is_available():
        print("torch finds no CUDA device: make gpu is for a machine that has one", file=sys.stderr)
        return 2
    folder = Path(arguments[0] if arguments else os.environ.get("OUT", ROOT / "results" / "bench")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{torch.cuda.get_device_name()} ({slug(torch.cuda.get_device_name())}), torch {torch.__version__}")
    results = [run(part, folder) for part in parts(folder)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
