"""A run is executed by one process at a time."""

import threading

from localsl.config import compose
from localsl.runs import experiment, lock
from localsl.runs.identity import run_directory
from tests.helpers.runs import TINY


def test_a_second_process_waits_for_the_first(capsys):
    cfg = compose(TINY)
    finished = []
    with lock.exclusive(cfg):
        second = threading.Thread(target=lambda: finished.append(experiment.run(cfg)))
        second.start()
        second.join(1)
        assert second.is_alive()
        assert not (run_directory(cfg) / "metrics.csv").exists()
    second.join(60)
    assert finished[0]["status"] == "done"
    assert "waiting" in capsys.readouterr().err
