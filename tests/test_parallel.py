"Worker processes end with their parent, and results come back in order."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidneg.core.errors import VidnegError
from vidneg.core.parallel import JobError, parallel_map, run_jobs


def note_and_sleep(folder):
    (Path(folder)/str(os.getpid())).touch()
    time.sleep(600)


def alive(pid):
    "Return True if the process exists and is no zombie."
    try: return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError: return False


STARTS = {
    "pool": "parallel_map(note_and_sleep, [{folder!r}]*2, workers=2, chunk=1)",
    "jobs": "run_jobs([(note_and_sleep, {{'folder': {folder!r}}})]*2, 2)",
    "background": "[in_background(note_and_sleep, {folder!r}) for _ in range(2)][-1].result()",
}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", STARTS)
def test_workers_end_when_their_parent_is_killed(how, tmp_path):
    code = ("from test_parallel import note_and_sleep\n"
            "from vidneg.core.parallel import in_background, parallel_map, run_jobs\n"
            f"if __name__ == '__main__': {STARTS[how].format(folder=str(tmp_path))}\n")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]),
                             os.environ.get("PYTHONPATH", "")])
    script = tmp_path.with_suffix(".py")
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": paths})
    until = time.time() + 120
    while len(list(tmp_path.iterdir())) < 2 and time.time() < until: time.sleep(.1)
    workers = [int(p.name) for p in tmp_path.iterdir()]
    assert len(workers) == 2 and all(map(alive, workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.time() + 60
    while any(map(alive, workers)) and time.time() < until: time.sleep(.1)
    left = [w for w in workers if alive(w)]
    for w in left: os.kill(w, signal.SIGKILL)
    assert not left


def divide(x, by): return x/by


def test_jobs_come_back_in_order_and_name_the_one_that_fails():
    jobs = [(divide, {"x": 6, "by": n}) for n in (1, 2, 3)]
    assert run_jobs(jobs) == run_jobs(jobs, workers=0) == [6, 3, 2]
    with pytest.raises(JobError, match="(?s)job 1 .divide. failed.*ZeroDivisionError"):
        run_jobs([jobs[0], (divide, {"x": 1, "by": 0})])


@pytest.mark.parametrize("workers", ["2", 1.5, -1, True, None])
def test_a_number_of_workers_is_a_whole_number(workers):
    for use in (lambda: parallel_map(abs, [-1, 2], workers), lambda: run_jobs([(divide, {"x": 6, "by": 2})], workers)):
        with pytest.raises(VidnegError, match=f"workers is {workers!r}: pass a whole number"): use()


def test_functions_of_scripts_may_be_mapped_and_interactive_ones_not():
    assert parallel_map(abs, [-1, 2], workers=2) == [1, 2]
    code = "from vidneg.core.parallel import parallel_map\ndef f(x): return x\nparallel_map(f, [1, 2], workers=2)"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert said.returncode and VidnegError.__name__ in said.stderr and "notebook" in said.stderr
