"""Which settings make another run, and which do not."""

import pytest

from localsl.config import compose
from localsl.runs.identity import cell_id, run_directory, run_id


@pytest.mark.parametrize(
    "same",
    [
        ["device=cpu"],
        ["threads=1"],
        ["tf32=false"],
        ["logger=wandb"],
        ["data_dir=elsewhere"],
        ["output_dir=elsewhere"],
        ["show=modules"],
        ["schedule.name=other"],
        ["optimizer.lr=1e-1"],
    ],
)
def test_how_and_where_a_run_is_executed_is_not_who_it_is(same):
    assert run_id(compose(same)) == run_id(compose())


@pytest.mark.parametrize(
    "other",
    [
        ["seed=0"],
        ["K=8"],
        ["precision=bf16"],
        ["optimizer.lr=0.2"],
        ["schedule.epochs=31"],
        ["dataset.train_subset=100"],
        ["partition.stem=merged"],
        ["batch_size=64"],
    ],
)
def test_what_decides_the_numbers_is(other):
    assert run_id(compose(other)) != run_id(compose())


def test_bp_is_the_same_run_for_every_K():
    one, two = (
        compose(["method=bp", "K=16"]),
        compose(["method=bp", "K=4", "partition.stem=merged"]),
    )
    assert run_directory(one) == run_directory(two)


def test_a_cell_is_a_run_without_its_seed():
    assert cell_id(compose(["seed=0"])) == cell_id(compose(["seed=1"])) != cell_id(compose(["K=8"]))
