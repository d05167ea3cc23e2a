"""What drivers of two ranks hear of each other, over a real store on this machine."""

import socket
import time

import pytest

from spin_train.driver import member as members
from spin_train.driver.member import Member
from spin_train.errors import UserError, WorkerError
from spin_train.system.world import World


def world(rank, port):
    return World(rank, 2, 0, rank, f"node{rank}", "127.0.0.1", port, served=False)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def pair(monkeypatch):
    port = free_port()
    first = Member(world(0, port))
    second = Member(world(1, port))
    yield first, second
    second.leave()
    first._left.set()


def soon(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return True


def test_rank_0_tells_what_to_do_and_hears_who_is_ready(pair):
    first, second = pair
    assert second.heard("go") is None
    first.tell_all({"root": "/shared"})
    assert soon(lambda: second.heard("go") == {"root": "/shared"})
    second.tell_seen()
    assert soon(lambda: first.of_all("seen") == {1: True})
    assert soon(lambda: first.of_all("node")[1]["name"] == "node1")
    first.let_start({})
    assert soon(lambda: second.heard("start") == {})


@pytest.mark.parametrize("who", [0, 1])
def test_one_that_is_asked_to_stop_asks_all(pair, who):
    pair[who].ask_to_stop(15)
    assert soon(lambda: [member.heard("stop") for member in pair] == [15, 15])


def test_how_a_worker_ended_reaches_rank_0(pair):
    first, second = pair
    second.tell_end({"code": 2, "line": "no room"})
    assert soon(lambda: first.of_all("end") == {1: {"code": 2, "line": "no room"}})


def test_who_shows_no_sign_of_life_is_named_and_who_ended_is_not(pair):
    first, second = pair
    soon(lambda: first._beats[1][0] and second._beats[0][0])
    assert first.missing() == second.missing() == ""
    second._left.set()  # as if it had been killed
    assert soon(lambda: first.missing(seconds=0.5) == "node1 (rank 1)")
    first.timeout_s = 1
    with pytest.raises(WorkerError, match=r"node1 \(rank 1\) has not answered for 1 s"):
        soon(lambda: first.require_all())
    second.tell_end({"code": 0, "line": ""})
    soon(lambda: 1 in first.of_all("end"))
    first.require_all()


def test_rank_0_waits_a_little_for_the_others_to_hear_the_end(pair):
    first, second = pair
    soon(lambda: first._beats[1][0])
    second.leave()
    begun = time.monotonic()
    first.finish(3)
    assert time.monotonic() - begun < 5
    assert second._store.get("over") == b"3"


def test_a_store_that_nobody_serves_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(members, "_JOIN_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"node1 \(rank 1 of 2\).*127\.0\.0\.1.*unset RANK"):
        Member(world(1, free_port()))


def test_a_port_that_is_taken_is_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be opened: set MASTER_ADDR and MASTER_PORT"):
            Member(world(0, taken.getsockname()[1]))
