"""One process at a run."""

import threading

from localsl.config import compose
from localsl.runs import experiment, lock
from localsl.runs.identity import run_directory
from tests.helpers.runs import TINY


def test_a_second_process_waits_for_the_first(capsys):
    cfg = compose(TINY)
    done = []
    with lock.exclusive(cfg):
        second = threading.Thread(target=lambda: done.append(experiment.run(cfg)))
        second.start()
        second.join(1)
        assert second.is_alive()
        assert not (run_directory(cfg) / "metrics.csv").exists()
    second.join(60)
    assert done[0]["status"] == "done"
    assert "waiting" in capsys.readouterr().err
