"""`make gpu`: stages end in time, results survive failures and kills, and the archive unpacks into a clone."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time

import pytest
import torch

from localsl.config.validation import compose
from localsl.measure.footprint import Footprint
from localsl.measure.gpu import __main__ as gpu
from localsl.measure.gpu import peaks, speeds, stages
from localsl.measure.gpu import queue as queues
from localsl.measure.gpu.archive import Report
from localsl.measure.gpu.queue import Places, Queue
from localsl.measure.gpu.stages import Stage
from localsl.measure.records import recorded
from tests.conftest import ROOT

CPU = torch.device("cpu")
PARENT = "import subprocess, sys, time; print('started', flush=True); "  # the start of a process with a child
GPU_COLUMNS = ("allocator", "tensors", "ratio")  # of the table of peaks: a CPU leaves them empty
IGNORES_SIGINT = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
DIGITS = "dataset=digits backbone=resnet20 dataset.train_subset=64 dataset.test_subset=64 batch_size=32"


def python(code, tmp_path, name="toy"):
    """The work of a stage that runs Python code."""
    return stages.command([sys.executable, "-c", code], tmp_path / "work" / f"{name}.txt")


def archived_names(out):
    with tarfile.open(out / "gpu.tar.gz") as archive:
        return {member.name for member in archive}


def has_ended(pid):
    """Whether a process does not exist or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it would do its work")
def test_without_a_gpu_make_gpu_ends_with_a_message(capsys):
    assert gpu.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_a_failing_stage_does_not_stop_the_others_and_results_are_written_after_each(tmp_path):
    report, written = Report(tmp_path / "work", tmp_path / "out", CPU), []

    def look(deadline, tell):
        written.append((archived_names(tmp_path / "out"), (tmp_path / "out" / "gpu.md").read_text()))
        return "done"

    all_stages = [
        Stage("bad", 1, 1, python("print('so far'); raise SystemExit(3)", tmp_path, "bad")),
        Stage("look", 1, 1, look),
        Stage("broken", 1, 1, lambda deadline, tell: 1 / 0),
        Stage("good", 1, 1, python("print('well')", tmp_path, "good")),
    ]
    assert not stages.run_stages(all_stages, time.monotonic() + 40, report)
    ((names, summary),) = written
    assert "gpu/bad.txt" in names
    assert "failed (3)" in summary
    assert "so far" in summary
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["gpu.md", "gpu.tar.gz"]
    states = json.loads((tmp_path / "work" / "stages.json").read_text())
    assert [states[stage.name]["state"] for stage in all_stages] == [
        "failed (3)",
        "done",
        "failed (ZeroDivisionError: division by zero)",
        "done",
    ]
    # A later command with the same folder includes the results of this one.
    assert "failed (3)" in Report(tmp_path / "work", tmp_path / "out", CPU).summary()


def test_a_stage_that_ignores_its_deadline_is_killed_with_its_child(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "GRACE", 0.5)
    code = f"import os; {PARENT} child = subprocess.Popen([sys.executable, '-c', {IGNORES_SIGINT!r}]); "
    code += f"print(os.getpid(), child.pid, flush=True); {IGNORES_SIGINT}"
    began = time.monotonic()
    state = python(code, tmp_path)(began + 2, lambda: None)
    assert state == "stopped at its deadline"
    assert time.monotonic() - began < 10
    lines = (tmp_path / "work" / "toy.txt").read_text().splitlines()
    assert lines[0] == "started"
    assert all(has_ended(pid) for pid in lines[1].split())


def test_a_child_that_outlives_its_stage_is_ended(tmp_path):
    code = f"{PARENT} print(subprocess.Popen([sys.executable, '-c', {IGNORES_SIGINT!r}]).pid)"
    assert python(code, tmp_path)(time.monotonic() + 20, lambda: None) == "done"
    assert has_ended((tmp_path / "work" / "toy.txt").read_text().split()[1])


def test_a_stage_that_lost_the_device_continues_in_another_process(tmp_path):
    code = f"import sys; print(sys.argv[1:]); sys.exit(0 if '--go-on' in sys.argv else {stages.DEVICE_LOST})"
    output = tmp_path / "toy.txt"
    work = stages.command([sys.executable, "-c", code], output, again=["--go-on"])
    assert work(time.monotonic() + 20, lambda: None) == "done"
    assert output.read_text() == "[]\n['--go-on']\n"


@pytest.mark.parametrize("seconds", [10, 100, 188, 460])
def test_time_limits_leave_later_stages_their_minimum(seconds):
    remaining = [Stage(name, *share, lambda deadline, tell: "done") for name, share in gpu.SHARES.items()]
    left = seconds
    limits = []
    while remaining:
        limits.append(stages.limit(remaining, left))
        left -= limits[-1]  # every stage uses all of its time
        remaining = remaining[1:]
    assert sum(limits) == pytest.approx(seconds)
    minima = [minimum for _, minimum in gpu.SHARES.values()]
    available = min(1, seconds / sum(minima))
    assert all(limit >= 0.99 * available * minimum for limit, minimum in zip(limits, minima, strict=True))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_of_a_killed_runner_the_finished_stages_are_archived(tmp_path, number):
    code = f"""
import signal, sys, time, torch
from pathlib import Path
from localsl.measure.gpu import stages
from localsl.measure.gpu.__main__ import _stop
from localsl.measure.gpu.archive import Report
signal.signal(signal.SIGTERM, _stop)
folder = Path({str(tmp_path)!r})
def toy(name, code):
    return stages.Stage(name, 1, 1, stages.command([sys.executable, "-c", code], folder / "work" / f"{{name}}.txt"))
report = Report(folder / "work", folder / "out", torch.device("cpu"))
second = toy("second", "import os, time; print(os.getpid()); time.sleep(30)")
stages.run_stages([toy("first", "print('well')"), second], time.monotonic() + 60, report)
"""
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    pid = tmp_path / "work" / "second.txt"
    while not (pid.exists() and pid.read_text().strip()):
        assert runner.poll() is None
        time.sleep(0.05)
    runner.send_signal(number)
    runner.wait(20)
    names, summary = archived_names(tmp_path / "out"), (tmp_path / "out" / "gpu.md").read_text()
    assert "gpu/first.txt" in names
    assert re.search(r"first +done", summary)
    if number == signal.SIGTERM:
        assert "stopped" in summary
        assert has_ended(pid.read_text())
    else:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def toy_queue(tmp_path, monkeypatch, codes, workers=1, estimates=None):
    """A queue whose runs are these pieces of Python code, with estimated durations in seconds."""
    (tmp_path / "run.py").write_text("import sys; exec(open(sys.argv[1]).read())")
    lines = []
    for index, code in enumerate(codes):
        (tmp_path / f"toy{index}.py").write_text(code)
        lines.append(f"{tmp_path}/toy{index}.py")
    monkeypatch.setattr(queues, "ROOT", tmp_path)
    monkeypatch.setattr(queues, "compose", lambda *_: None)
    monkeypatch.setattr(queues.identity, "run_directory", lambda _: tmp_path / "none")
    times = iter(estimates or [0.0] * len(codes))
    monkeypatch.setattr(Queue, "_estimate", lambda *_: next(times))
    (tmp_path / "work").mkdir()
    return Queue(lines, Places(tmp_path / "work", None, "cpu"), workers)


def test_runs_start_in_order_of_the_queue_if_they_fit_into_the_time(tmp_path, monkeypatch):
    code = f"open('{tmp_path}/order', 'a').write(sys.argv[1][-4])"
    queue = toy_queue(tmp_path, monkeypatch, [code] * 4, estimates=[1, 1000, 2, 3])
    updates = []
    assert queue.work(time.monotonic() + 30, lambda: updates.append(1)) == "done: 0 of 4 runs are done"
    assert (tmp_path / "order").read_text() == "023"
    assert queue.runs[1].state.startswith("does not fit")
    assert len(updates) >= 3


@pytest.mark.parametrize("background", [False, True])
def test_workers_run_at_the_same_time_and_are_interrupted_at_the_deadline(tmp_path, monkeypatch, background):
    """A shell starts background processes with SIGINT ignored, and their children would inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.default_int_handler)
    try:
        work_until_the_deadline(tmp_path, monkeypatch)
    finally:
        signal.signal(signal.SIGINT, before)


def work_until_the_deadline(tmp_path, monkeypatch):
    code = "import time\ntry:\n    print('on', flush=True); time.sleep(30)\n"
    code += "except KeyboardInterrupt:\n    print('saved')"
    queue = toy_queue(tmp_path, monkeypatch, [code] * 3, workers=2)
    began = time.monotonic()
    queue.work(began + 2, lambda: None)
    assert time.monotonic() - began < 10
    assert [run.state for run in queue.runs] == ["stopped at the deadline"] * 2 + ["waiting"]
    for number in (1, 2):
        assert (tmp_path / "work" / f"train-0{number}.txt").read_text() == "on\nsaved\n"


def test_a_run_that_fails_is_reported(tmp_path, monkeypatch):
    queue = toy_queue(tmp_path, monkeypatch, ["raise SystemExit(3)"])
    assert queue.work(time.monotonic() + 20, lambda: None) == "failed: 0 of 1 runs are done"
    assert queue.runs[0].state == "failed (3)"


def test_estimates_are_the_number_of_steps_times_the_measured_speed(tmp_path):
    (tmp_path / "q").write_text(f"# two\nmethod=bp {DIGITS} schedule.epochs=50  # one\n\nmethod=nothing\n")
    places = Places(tmp_path, None, "cpu", results=tmp_path)
    lines = queues.lines(tmp_path / "q")
    unknown, wrong = Queue(lines, places, workers=2).runs
    assert unknown.estimate == pytest.approx(2 * 50 * 0.04 * 2 + queues.START)
    assert "method" in wrong.state
    cfg = compose([*f"method=bp {DIGITS} measure=speed device=cpu".split(), f"output_dir={tmp_path}/outputs"])
    file = recorded(cfg, tmp_path / "outputs")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"status": "done", "figures": {"ms_median": 100.0}}))
    assert Queue(lines, places, workers=1).runs[0].estimate == pytest.approx(2 * 50 * 0.1 + queues.START)


def test_the_default_queue_has_ten_valid_runs():
    runs = Queue(queues.DEFAULT, Places(ROOT, None, "cpu"), 1).runs
    assert [run.state for run in runs] == ["waiting"] * 10
    assert len({run.folder for run in runs}) == 10
    assert runs[4].name == "man aux_net=dgl"


def test_a_traced_peak_is_recorded_and_not_traced_again(tmp_path, monkeypatch):
    traced = Footprint(1, 2, 3, 4, 2**30 - 10, "module 0")
    monkeypatch.setattr(peaks, "footprint", lambda cfg: traced)
    arguments = ["--work", str(tmp_path), "--device", "cpu", "--rules", "dgl", "--setting", f"{DIGITS} K=2"]
    assert peaks.main(arguments) == 0
    (row,) = json.loads((tmp_path / "memory.json").read_text())
    assert row == {"cell": "dgl", "traced": "1024.0 MiB", "peak in": "module 0"} | dict.fromkeys(
        GPU_COLUMNS, ""
    )
    monkeypatch.setattr(peaks, "footprint", None)
    assert peaks.main(arguments) == 0
    (file,) = (tmp_path / "outputs" / "measured").glob("memory-*.json")
    assert json.loads(file.read_text())["figures"]["peak_bytes"] == traced.peak


def test_a_cell_that_fails_is_reported_in_its_place(tmp_path, monkeypatch):
    times = iter([[9.0], [8.0] * 3, None, [9.0], [12.0] * 3, [9.0], [9.0] * 3])

    def steps(self, number):
        found = next(times)
        if found is None:
            raise RuntimeError("out of memory")
        return found

    monkeypatch.setattr(speeds.Trained, "steps", steps)
    arguments = ["--work", str(tmp_path), "--device", "cpu", "--rules", "bp,dgl,man", "--columns", "fp32"]
    assert speeds.main([*arguments, "--seconds", "0", "--setting", f"{DIGITS} K=2"]) == 1
    cells = {row["cell"]: row["fp32"] for row in json.loads((tmp_path / "speed.json").read_text())}
    assert cells == {"bp": "8.00 ms (0.89)", "dgl": "RuntimeError: out of memory", "man": "12.00 ms (1.50)"}


def test_another_process_continues_after_the_cell_that_lost_the_device(tmp_path, monkeypatch):
    calls = []

    def cell(self, rule):
        calls.append(rule)
        if rule == "method=man":
            raise RuntimeError("illegal memory access")
        return "1.00 ms (1.00)"

    monkeypatch.setattr(speeds.Column, "_first", lambda self, batches: cell(self, speeds.BP))
    monkeypatch.setattr(speeds.Column, "_rule", lambda self, rule, batches: cell(self, rule))
    monkeypatch.setattr(speeds, "device_lost", lambda device: True)
    arguments = ["--work", str(tmp_path), "--device", "cpu", "--rules", "dgl,man,mlaan", "--columns", "fp32"]
    assert speeds.main(arguments) == stages.DEVICE_LOST
    assert speeds.main([*arguments, "--go-on"]) == 0
    assert calls == [f"method={name}" for name in ("bp", "dgl", "man", "bp", "mlaan")]
    cells = {row["cell"]: row["fp32"] for row in json.loads((tmp_path / "speed.json").read_text())}
    assert cells["man"] == "RuntimeError: illegal memory access"
    assert cells["mlaan"] == "1.00 ms (1.00)"


def test_speeds_and_a_run_on_a_cpu_unpack_into_a_clone(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    line = f"method=dgl K=2 {DIGITS} schedule.epochs=1"
    (tmp_path / "queue.txt").write_text(line)
    arguments = ["--device", "cpu", "--stages", "speed,train", "--seconds", "150", "--workers", "1"]
    arguments += ["--work", f"{tmp_path}/work", "--out", f"{tmp_path}/out", "--queue", f"{tmp_path}/queue.txt"]
    arguments += ["--rules", "dgl", "--columns", "fp32", "--rule-seconds", "0.01"]
    assert gpu.main([*arguments, "--setting", f"{DIGITS} K=2"]) == 0
    clone = tmp_path / "clone"
    with tarfile.open(tmp_path / "out" / "gpu.tar.gz") as archive:
        archive.extractall(clone, filter="data")
    folder = queues.identity.run_directory(compose([*line.split(), f"output_dir={clone}/outputs"]))
    assert json.loads((folder / "record.json").read_text())["status"] == "done"
    assert sorted(file.name for file in folder.iterdir()) == ["config.yaml", "metrics.csv", "record.json"]
    measured = sorted(file.name.split("-")[0] for file in (clone / "outputs" / "measured").glob("*.json"))
    assert measured == ["speed", "speed"]
    records = [json.loads(f.read_text()) for f in (clone / "outputs" / "measured").glob("speed-*.json")]
    assert {record["method"] for record in records} == {"bp", "dgl"}
    assert all(record["figures"]["in_turn"] is False for record in records)
    summary = (tmp_path / "out" / "gpu.md").read_text()
    assert re.search(r"train +done: 1 of 1 runs are done", summary)
    assert re.search(r"dgl +\d+\.\d\d ms \(\d+\.\d\d\)", summary)
