"""Pictures on disk are decoded as torchvision does, by any number of workers, ahead of the step."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from localsl.config import ConfigError, compose
from localsl.core.initialization import stream
from localsl.core.settings import LocalslError
from localsl.data import feed, loading, streamed, workers
from localsl.data.pictures import Pictures, in_memory
from localsl.execution.processes import WHOLE, Part
from localsl.runs import experiment, identity, stored
from tests.conftest import ROOT, environment
from tests.helpers.pictures import CPU, assert_same_batches, epoch_batches, evaluation_batches, folder_config
from tests.helpers.runs import assert_same, left_by


def normalised(picture, dataset):
    mean, std = (torch.tensor(values).view(3, 1, 1) / 255 for values in (dataset.mean, dataset.std))
    return (tv.pil_to_tensor(picture).float() / 255 - mean) / std


def test_training_pictures_equal_torchvisions_transforms(folder):
    cfg = folder_config(folder, "dataset.workers=0")
    split = loading.load(cfg).train
    assert isinstance(split, Pictures)
    crop = v2.Compose([v2.RandomResizedCrop(16, antialias=True), v2.RandomHorizontalFlip()])
    order = torch.randperm(19, generator=torch.Generator().manual_seed(stream(cfg.seed, "epoch", 2)))
    found = epoch_batches(cfg, 2)
    assert [len(targets) for _, targets in found] == [4, 4, 4, 4, 3]
    images, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    for position, index in enumerate(order.tolist()):
        with Image.open(folder / split.name(index)) as picture, torch.random.fork_rng():
            torch.manual_seed(stream(cfg.seed, "picture", 2, position))
            expected = normalised(crop(picture.convert("RGB")), cfg.dataset)
        assert torch.allclose(images[position], expected, atol=1e-6)
        assert int(targets[position]) == ("dogs" in split.name(index))


def test_test_pictures_equal_torchvisions_transforms(folder):
    cfg = folder_config(folder)
    split = loading.load(cfg).test
    fit = v2.Compose([v2.Resize(18, antialias=True), v2.CenterCrop(16)])
    images = torch.cat([images for images, _ in evaluation_batches(cfg)])
    for index, image in enumerate(images):
        with Image.open(folder / split.name(index)) as picture:
            assert torch.allclose(image, normalised(fit(picture.convert("RGB")), cfg.dataset), atol=1e-6)
    assert split.targets.tolist() == [0, 0, 0, 1, 1]
    kept = in_memory(split[torch.tensor([4, 0])])
    assert kept.images.shape == (2, 3, 16, 16)
    assert kept.targets.tolist() == [1, 0]


def test_test_pictures_of_224_pixels_are_resized_to_256_and_cropped(folder):
    resize, crop = streamed.for_test(224).transforms
    assert (resize.size, crop.size) == ([256], (224, 224))
    assert not isinstance(streamed.for_training(8, flip=False), v2.Compose)  # only a crop


def test_batches_do_not_depend_on_the_number_of_workers_or_earlier_epochs(folder):
    without_workers, with_workers = folder_config(folder), folder_config(folder, "dataset.workers=2")
    assert identity.run_id(without_workers) == identity.run_id(with_workers)
    state = torch.get_rng_state()
    whole = epoch_batches(without_workers)
    assert torch.equal(state, torch.get_rng_state())
    assert_same_batches(epoch_batches(with_workers), whole)
    assert torch.equal(state, torch.get_rng_state())
    assert_same_batches(evaluation_batches(with_workers), evaluation_batches(without_workers))
    assert_same_batches(epoch_batches(with_workers, skip=3), whole[3:])
    assert epoch_batches(without_workers, skip=5) == []
    assert not torch.equal(epoch_batches(without_workers, 2)[0][0], whole[0][0])


def test_workers_are_kept_for_the_next_epoch(folder):
    cfg = folder_config(folder, "dataset.workers=2")
    batches = feed.train_batches(loading.load(cfg).train, cfg, CPU, torch.contiguous_format, WHOLE)
    one = list(batches.epoch(cfg.seed, 1))
    running = children()
    next(batches.epoch(cfg.seed, 7))  # abandoned before its end
    assert_same_batches(list(batches.epoch(cfg.seed, 1)), one)
    assert len(running) == 2
    assert children() == running
    batches.close()
    assert children() == set()


def children():
    """The process ids of the workers."""
    return {process.pid for process in multiprocessing.active_children()}


LAYOUTS = (torch.contiguous_format, torch.channels_last)


def test_batches_have_the_requested_memory_format(folder):
    cfg = folder_config(folder, "batch_size=17")  # larger than the pieces that are decoded at once
    split = loading.load(cfg).train
    feeds = (feed.train_batches(split, cfg, CPU, layout, WHOLE) for layout in LAYOUTS)
    (contiguous, _), (channels_last, _) = (next(batches.epoch(0, 1)) for batches in feeds)
    assert contiguous.is_contiguous(memory_format=LAYOUTS[0])
    assert channels_last.is_contiguous(memory_format=LAYOUTS[1])
    assert torch.equal(contiguous, channels_last)
    assert len(contiguous) == 17


def test_every_batch_is_divided_among_processes(folder):
    cfg = folder_config(folder)
    whole = epoch_batches(cfg)
    parts = [epoch_batches(cfg, part=Part(rank, 2)) for rank in range(2)]
    joined = [tuple(map(torch.cat, zip(*pair, strict=True))) for pair in zip(*parts, strict=True)]
    assert [len(targets) for _, targets in joined] == [4, 4, 4, 4, 4]
    assert_same_batches(
        [(images[:n], targets[:n]) for (images, targets), n in zip(joined, [4, 4, 4, 4, 3], strict=True)], whole
    )
    assert torch.equal(joined[-1][0][3], whole[0][0][0])  # filled up with the epoch's first images
    tested = [batch for rank in range(2) for batch in evaluation_batches(cfg, Part(rank, 2))]
    assert torch.equal(
        torch.cat([images for images, _ in tested]),
        torch.cat([images for images, _ in evaluation_batches(cfg)]),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_disappears_during_a_run_is_named(folder, workers, monkeypatch):
    cfg = folder_config(folder, f"dataset.workers={workers}", "batch_size=5")
    load = loading.load

    def breaking(cfg):
        loaded = load(cfg)
        (folder / "train" / "dogs" / "4.png").unlink()
        return loaded

    monkeypatch.setattr(loading, "load", breaking)
    with pytest.raises(LocalslError, match=r"train/dogs/4\.png cannot be read .*No such file") as error:
        experiment.run(cfg)
    assert error.value.exit_code == 1
    assert children() == set()
    record = stored.read_record(cfg)
    assert record is not None
    assert record["status"] == "failed"


def test_workers_decode_the_next_batches_ahead(folder, tmp_path, monkeypatch):
    """Further batches are decoded before the second one is requested."""
    cfg = folder_config(folder, "dataset.workers=2")
    real = Pictures.decoded

    def counting(self, index, transform):
        with (tmp_path / "decoded").open("a") as file:  # workers are other processes: a file counts for all
            file.write(".")
        return real(self, index, transform)

    monkeypatch.setattr(Pictures, "decoded", counting)
    batches = feed.train_batches(loading.load(cfg).train, cfg, CPU, torch.contiguous_format, WHOLE)
    epoch = batches.epoch(0, 1)
    next(epoch)
    deadline = time.monotonic() + 60
    while (tmp_path / "decoded").stat().st_size < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "decoded").stat().st_size >= 12
    assert len(list(epoch)) == 4
    batches.close()


def test_the_number_of_workers_is_the_one_set_or_the_cores_of_each_process(monkeypatch):
    monkeypatch.setattr(workers.joblib, "cpu_count", lambda: 24)
    assert [workers.workers(chosen) for chosen in (None, 0, 3)] == [24, 0, 3]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert workers.workers(None) == 3


def test_a_run_resumes_within_an_epoch_bit_for_bit(folder):
    def cfg(name, workers):
        more = ["schedule.epochs=2", "batch_size=5", f"output_dir={name}", f"dataset.workers={workers}"]
        return folder_config(folder, *more)

    straight, stopped = cfg("straight", 0), cfg("stopped", 2)
    experiment.run(straight)
    real, calls = streamed.Feed.__call__, []

    def stopping(self, batches):
        for images in real(self, batches):
            calls.append(1)
            if len(calls) == 6:  # in the second epoch: an epoch has four training batches and one for the test
                os.kill(os.getpid(), signal.SIGTERM)
            yield images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed.Feed, "__call__", stopping)
        with pytest.raises(SystemExit):
            experiment.run(stopped)
    assert children() == set()
    experiment.run(stopped)
    found, expected = left_by(stopped), left_by(straight)
    assert_same(found, expected)
    assert "test_top5_accuracy" not in found[2]["last"]  # there are only two classes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_all_processes_end_a_run_cleanly(folder, tmp_path, number, code):
    command = [sys.executable, str(ROOT / "run.py"), "dataset=imagefolder", f"dataset.root={folder}"]
    command += ["dataset.image_size=16", "batch_size=4", "backbone=resnet20", "K=4", "schedule.epochs=5000"]
    command += ["dataset.workers=2", "threads=1", "checkpoint.every=100"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch    2/"):
                break
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert errors.count("stopping after this step") == 1
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)


UNFINISHED_EPOCH = """
import sys
from localsl.data import feed
from localsl.data.loading import load
from tests.helpers.pictures import CPU, WHOLE, folder_config, torch
cfg = folder_config(sys.argv[1], "dataset.workers=2")
epoch = feed.train_batches(load(cfg).train, cfg, CPU, torch.contiguous_format, WHOLE).epoch(0, 1)
next(epoch)
sys.exit(5)
"""


def test_python_exits_at_once_within_an_unfinished_epoch(folder, tmp_path):
    few_cores = "ignore:This DataLoader will create"  # torch warns of more workers than the machine has cores
    command = [sys.executable, "-W", few_cores, "-c", UNFINISHED_EPOCH, str(folder)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(ROOT), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (5, "")


def test_imagenet_needs_no_data_until_it_is_trained_on(folder, tmp_path, capsys):
    cfg = compose(["dataset=imagenet", "backbone=resnet34", "K=17", "schedule=paper"])
    assert (cfg.dataset.num_classes, cfg.dataset.image_size, cfg.batch_size) == (1000, 224, 128)
    with pytest.raises(ConfigError) as error:
        loading.load(cfg)
    (problem,) = error.value.problems
    assert problem.key == "dataset.root"
    assert str(tmp_path / "data" / "imagenet") in problem.allowed
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "imagenet").symlink_to(folder)
    (folder / "test").mkdir()  # ImageNet's test/ has no labels, and its files are not read
    (folder / "test" / "1.JPEG").write_text("not a picture")
    assert len(loading.load(cfg).test) == 5
    assert "19 training and 5 test images, where the published imagenet has 1281167" in capsys.readouterr().err


def test_subsets_of_pictures_are_balanced(folder):
    split = loading.load(folder_config(folder, "dataset.train_subset=8")).train
    assert split.targets.bincount().tolist() == [4, 4]
