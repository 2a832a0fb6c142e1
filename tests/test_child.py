"Calls in a child process, which may die or hang without harm to this one."
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vidneg.core import child
from vidneg.core.child import ChildError, in_child


def test_value_and_arguments_come_through():
    assert in_child("builtins:divmod", 17, 5) == (3, 2)
    assert in_child("os:getpid") != os.getpid()
    assert len(in_child("builtins:bytes", 3_000_000)) == 3_000_000


def test_idle_child_is_used_again_and_a_dead_one_is_not():
    first = in_child("os:getpid")
    assert in_child("os:getpid") == first
    os.kill(first, signal.SIGKILL)
    while child._IDLE[-1].process.poll() is None: time.sleep(0.01)
    assert in_child("os:getpid") != first


@pytest.mark.parametrize("location, args, says", [
    ("os:abort", (), "SIGABRT"), ("os:_exit", (7,), "exit code 7"), ("ctypes:string_at", (0,), "SIGSEGV"),
    ("builtins:int", ("x",), "ValueError"), ("no.such.module:f", (), "ModuleNotFoundError"),
    ("threading:Lock", (), "pickle")])
def test_deaths_and_errors_are_told(location, args, says):
    with pytest.raises(ChildError, match=says): in_child(location, *args)
    assert in_child("math:sqrt", 9) == 3


def test_hanging_child_is_killed():
    in_child("math:sqrt", 1)
    pid = child._IDLE[-1].process.pid
    with pytest.raises(ChildError, match=r"more than 0.1 s"): in_child("time:sleep", 100, limit=0.1)
    with pytest.raises(ProcessLookupError): os.kill(pid, 0)


def test_call_is_repeated_once_if_its_child_had_others_before(tmp_path):
    "The harm may come from an earlier call; here, the first child dies although the call is sound."
    first = child._take()
    assert first.call("math:sqrt", (4,), 60) == (True, 2)
    first.process.kill()
    first.process.poll = lambda: None # it dies unnoticed
    child._IDLE.append(first)
    assert in_child("math:sqrt", 9) == 3


def test_printing_does_not_disturb_the_answers(capfd):
    assert in_child("builtins:print", "hello") is None and in_child("os:write", 1, b"there") == 5
    assert in_child("math:sqrt", 9) == 3


def test_threads_use_children_of_their_own():
    "Four calls that meet need four processes."
    barrier = threading.Barrier(4)
    def call(i):
        barrier.wait()
        in_child("time:sleep", 0.05)
        return in_child("operator:mul", i, i)
    with ThreadPoolExecutor(4) as pool: assert list(pool.map(call, range(4))) == [0, 1, 4, 9]


def test_child_ends_with_a_killed_parent(tmp_path):
    "Also while it is busy."
    code = ("import threading, time\nfrom vidneg.core.child import in_child\n"
            "print(in_child('os:getpid'), flush=True)\nin_child('time:sleep', 1000)")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(1000):
        try: os.kill(pid, 0)
        except ProcessLookupError: break
        if open(f"/proc/{pid}/stat").read().split()[2] == "Z": break
        time.sleep(0.01)
    else: pytest.fail("the child lives on")


def test_script_without_a_guard_is_not_run_again(tmp_path):
    code = "from vidneg.core.child import in_child\nprint('once', in_child('math:sqrt', 9))\n"
    (tmp_path/"script.py").write_text(code)
    done = subprocess.run([sys.executable, tmp_path/"script.py"], capture_output=True, text=True)
    assert done.stdout == "once 3.0\n" and not done.stderr
