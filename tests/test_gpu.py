"""make gpu: its parts are there and fit into ten minutes; without a GPU it says so."""

import sys
from pathlib import Path

import pytest
import torch

from localsl.measure import gpu
from tests.conftest import ROOT


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would do its work")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_its_parts_fit_into_ten_minutes(tmp_path):
    parts = gpu.parts(tmp_path)
    assert sum(part.limit for part in parts) <= 600
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert part.command[0] == sys.executable
        assert all((ROOT / word).exists() for word in part.command if word.startswith("tests/"))


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(tmp_path, capsys):
    def part(name, code, limit=20):
        return gpu.Part(name, [sys.executable, "-c", code], limit)

    assert gpu.run(part("good", "print('well')"), tmp_path)
    assert not gpu.run(part("bad", "raise SystemExit(3)"), tmp_path)
    assert not gpu.run(part("slow", "import time; time.sleep(60)", limit=1), tmp_path)
    assert (tmp_path / "gpu-good.txt").read_text() == "well\n"
    told = capsys.readouterr().out
    assert "failed (3)" in told
    assert "took too long" in told


@pytest.mark.slow
def test_a_profile_tells_the_convolutions(monkeypatch):
    monkeypatch.setattr(gpu, "SETTING", ["batch_size=8", "device=cpu"])
    assert "aten::convolution" in gpu.profiled()
    assert not Path("outputs").exists()
