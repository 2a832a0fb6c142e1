"The table of faults with few cases; `make faults` runs it whole."
import pytest
from faults import captions, chat, disk, endurance, hostile, kills
from faults.checks import Case, Check, table
from faults.report import page, with_others

from vidneg.core.errors import VidnegError


def held(checks):
    for check in checks: assert check.cases and not check.broken, check.broken


def test_a_broken_case_is_counted_and_described():
    check = Check("fault", "a|b", [Case("x", "held", True), Case("y", "traceback", False)])
    assert table([check]).splitlines()[-1] == "| fault | a\\|b | 2 | held: all | 1 |"
    assert page([check]).endswith("## Broken\n\n- fault, a|b: y: traceback\n")
    assert "Broken" not in page([check._replace(cases=check.cases[:1])])


def test_rows_of_an_older_page_stay():
    a = Check("a", "x", [Case("1", "fine", True)])
    b = Check("b", "y|z", [Case("2", "held", True), Case("3", "no", False)])
    c, worse = a._replace(fault="c"), a._replace(cases=[Case("4", "worse", False)])
    assert with_others(page([worse]), page([a, b, c])) == page([worse, b, c]).replace(
        "- a, x: 4: worse\n- b, y|z: 3: no\n", "- b, y|z: 3: no\n- a, x: 4: worse\n")
    assert with_others(page([b]), "") == page([b])
    assert with_others(page([b]), page([worse, b]), lambda fault, where: False) == page([b])
    assert with_others(page([a]), page([a, b, c]), lambda fault, where: fault == "c") == page([a, c])


def test_an_error_that_is_no_message_for_users_is_a_fault():
    case = hostile.refused("x", lambda: [][0])
    assert not case.good and case.outcome.startswith("IndexError")
    assert hostile.refused("x", lambda: 7) == Case("x", "accepted: 7", False)
    def fails(): raise VidnegError("a.csv is empty")
    assert hostile.refused("x", fails) == Case("x", "refused", True)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["training", "probe"])
def test_what_is_killed_goes_on_and_ends_with_the_same_bytes(what): held([Check("", "", kills.forked(what, 2))])


@pytest.mark.slow
def test_killed_stages_leave_no_process_and_the_same_lock(): held([Check("", "", kills.stages(2))])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tables", "records", "answers", "frames", "audit", "training"])
def test_disks_that_take_nothing_leave_old_files_whole(name):
    for check in disk.checks((name,)): assert not check.broken, check.broken


@pytest.mark.slow
def test_hostile_input_is_refused_or_shown_as_text(): held(hostile.checks())


@pytest.mark.slow
def test_a_server_that_fails_loses_no_answer(): held(chat.checks(34))


@pytest.mark.slow
def test_odd_captions_are_counted(): held(captions.checks(90, 0))


def test_growth_is_seen():
    assert endurance.grows([1, 1, 1, 2, 2, 3], 0) and not endurance.grows([9, 5, 3, 3, 3, 3], 0)


@pytest.mark.slow
def test_a_long_run_is_flat(): held(endurance.checks(6))
