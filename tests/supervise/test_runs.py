"""Supervised runs of real processes: what workers get, what is left behind, how runs end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from homegrown.cli.main import main
from homegrown.supervise.agent import free_port
from homegrown.supervise.drill import two_hosts
from homegrown.supervise.network import Namespaces, namespaces_missing
from homegrown.supervise.stage import AgentCommand, Stage, losses
from homegrown.supervise.worker import process_state

QUICK = ["--backoff", "0.1", "--lease", "3", "--hang-after", "1.5", "--selftest", "true"]


@pytest.fixture
def supervised(tmp_path):
    """Starts stages and ends them."""
    stages = []

    def begin(flags, workers=2, steps=40, **more):
        agents = more.pop("agents", [AgentCommand(["--workers", str(workers)])])
        run = tmp_path / "run"
        stages.append(
            Stage(run, workers=workers, steps=steps, flags=[*QUICK, *flags], agents=agents, patience=60, **more)
        )
        return stages[-1]

    yield begin
    for stage in stages:
        stage.__exit__()


@pytest.fixture
def program(tmp_path):
    """Flags that run a few lines of Python as the workers' program."""

    def flags(code):
        path = tmp_path / "program.py"
        path.write_text(code)
        return ["--command", f"{sys.executable} {path}", "--run", str(tmp_path / "run")]

    return flags


def test_workers_get_what_torchrun_would_give_them(supervised, program):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "HOMEGROWN_ATTEMPT")
    stage = supervised(program(f"import os\nprint(*(os.environ[name] for name in {names}))\nprint('\\n')"))
    assert stage.finish() == 0
    lines = [(stage.run / "logs" / f"rank-{rank}.log").read_text().splitlines() for rank in (0, 1)]
    assert [line[1] for line in lines] == ["0 2 0 2 127.0.0.1 1", "1 2 1 2 127.0.0.1 1"]
    assert [line[0].startswith("== attempt 1, ") for line in lines] == [True, True]


def test_a_hang_leaves_stacks_and_names(supervised, toy, tmp_path):
    stage = supervised(toy(tmp_path / "run"))
    stopped = stage.worker(1, 10)
    os.kill(stopped.pid, signal.SIGSTOP)
    fault = stage.event("fault")
    assert (fault["kind"], fault["collective"], fault["group"]) == ("hang", "all_gather", "world")
    assert (fault["waiting"], fault["missing"], fault["culprits"]) == ("0", "1", [1])
    assert fault["text"].endswith("stopped by a signal: rank 1 (restart 1 of 10 without progress)")
    assert stage.finish() == 0
    folder = stage.run / "faults" / "1"
    waiting, missing = ((folder / f"rank-{rank}.txt").read_text() for rank in (0, 1))
    assert "in gather" in waiting, "the Python stack"
    assert "s in all_gather number" in waiting
    assert "(stopped by a signal)" in missing
    assert "none: a stopped process does not run the code" in missing
    assert (folder / "fault.json").exists()


def test_a_worker_without_a_record_shows_its_stack_in_the_log(supervised, program):
    code = """
import os, time
from pathlib import Path
from homegrown.parallel import flight
rank = int(os.environ["RANK"])
if os.environ["HOMEGROWN_ATTEMPT"] != "1":
    raise SystemExit
def lost_in_here():
    time.sleep(60)
if rank == 0:
    flight.open(Path(os.environ["HOMEGROWN_WATCH"]) / "rank-00000", 0)
    flight.step(1)
    flight.enter("barrier", "world", (0, 1), 0)
lost_in_here()
"""
    stage = supervised([*program(code), "--stall-after", "4"])  # longer than starting takes
    assert stage.event("fault")["culprits"] == [1]
    assert stage.finish() == 0
    page = (stage.run / "faults" / "1" / "rank-1.txt").read_text()
    assert "no flight record" in page
    assert "in lost_in_here" in page


def test_workers_that_a_user_got_wrong_are_not_restarted(supervised, program):
    stage = supervised(program("import sys\nprint('homegrown train: no such key')\nsys.exit(2)"), workers=1)
    assert stage.finish() == 2
    assert [event["event"] for event in stage.events()] == ["waiting", "joined", "start", "fault", "over"]
    assert "no such key" in stage.events("over")[0]["text"]


def test_a_program_that_does_not_exist(supervised, tmp_path):
    flags = ["--command", "/no/such/program", "--run", str(tmp_path / "run"), "--max-restarts", "1"]
    stage = supervised(flags, workers=1)
    assert stage.finish() == 1
    assert "cannot be started: /no/such/program: No such file" in stage.events("over")[0]["text"]


def test_a_signal_saves_and_the_same_command_goes_on(supervised, toy, tmp_path):
    stage = supervised(toy(tmp_path / "run"))
    stage.worker(0, 8)
    stage.agents[0].send_signal(signal.SIGTERM)
    assert stage.finish() == 128 + signal.SIGTERM
    reached = max(losses(stage.run))
    saved = sorted((stage.run / "checkpoints").glob("step-*"))[-1]
    assert saved.name == f"step-{reached:06d}.json"
    assert reached < 40
    stage.relaunch()
    assert stage.finish() == 0
    assert sorted(losses(stage.run)) == list(range(1, 41))
    assert [event["attempt"] for event in stage.events("start")] == [1, 2]


def test_workers_die_with_their_agent(supervised, toy, tmp_path):
    stage = supervised(toy(tmp_path / "run", pace=0.05))
    pids = [stage.worker(rank, 2).pid for rank in (0, 1)]
    stage.agents[0].kill()
    stage.agents[0].wait()
    deadline = time.monotonic() + 10
    while any(process_state(pid) not in "XZ" for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert {process_state(pid) for pid in pids} <= {"X", "Z"}


def test_what_a_worker_started_ends_with_it(supervised, program):
    code = """
import os, subprocess, sys, time
if os.environ["HOMEGROWN_ATTEMPT"] == "1":
    child = subprocess.Popen(["sleep", "1000"])
    print(child.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    stage = supervised(program(code), workers=1)
    assert stage.finish() == 0
    child = int((stage.run / "logs" / "rank-0.log").read_text().splitlines()[1])
    assert process_state(child) in "XZ"


def test_a_cordoned_slot_gives_its_rank_to_a_spare(supervised, toy, tmp_path):
    stage = supervised([*toy(tmp_path / "run", "--corrupt", "1:12:1"), "--spares", "1"])
    assert stage.finish() == 0
    fault = stage.events("fault")[0]
    assert fault["kind"] == "corrupt"
    assert "rank 1 computes wrong results: recomputing leaf 0 gave other bits" in fault["text"]
    first, second = (event["seats"] for event in stage.events("start"))
    host = first["0"].partition(":")[0]
    assert (first, second) == ({"0": f"{host}:0", "1": f"{host}:1"}, {"0": f"{host}:0", "1": f"{host}:2"})
    assert sorted(losses(stage.run)) == list(range(1, 41))


@pytest.mark.slow
def test_a_sound_slot_passes_the_self_test_and_is_let_back(supervised, toy, tmp_path):
    """The default one: the node's examination, started as a worker of that slot would be."""
    doctor = shlex.join([sys.executable, "-m", "homegrown", "doctor", "--quick"])
    stage = supervised([*toy(tmp_path / "run", "--corrupt", "1:12:1"), "--min-workers", "2", "--selftest", doctor])
    assert stage.finish() == 0
    assert not stage.events("self-test"), "it failed"
    assert [event["place"] for event in stage.events("readmitted")] == [
        event["place"] for event in stage.events("cordon")
    ]
    assert [event["world"] for event in stage.events("start")] == [2, 2]


def test_without_spares_the_run_goes_on_with_fewer_and_the_same_bits(supervised, toy, tmp_path):
    flags = toy(tmp_path / "run", "--corrupt", "2:12:1")
    stage = supervised([*flags, "--min-workers", "2", "--selftest", "false"], workers=3)
    assert stage.finish() == 0
    assert [event["world"] for event in stage.events("start")] == [3, 2]
    assert stage.events("self-test")
    alone = Stage(tmp_path / "alone", workers=1, steps=40, flags=[*toy(tmp_path / "alone", pace=0.0), *QUICK])
    with alone:
        assert alone.finish() == 0
    assert losses(stage.run) == losses(alone.run)


def test_a_full_disk(supervised, toy, tmp_path):
    """A file system of one megabyte fills up, and is cleared a while later."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    run = tmp_path / "run"
    run.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", run], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mount: {mounted.stderr.decode().strip()}")
    try:
        stage = supervised(toy(run))
        first = stage.worker(0, 8)
        filler = run / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        stage.wait_for("the worker failed", lambda: process_state(first.pid) in "XZ")
        time.sleep(1)  # others fail to start, records and journals cannot be written
        filler.unlink()
        assert stage.finish() == 0
        assert sorted(losses(run)) == list(range(1, 41))
    finally:
        for agent in stage.agents:
            agent.kill()
            agent.wait()
        subprocess.run(["umount", "-l", run], check=True)


def test_an_agent_that_leaves_is_saved_from(supervised, toy, tmp_path):
    """SIGTERM to one host of two: all save, and the other goes on alone."""
    port = free_port()
    agents = two_hosts(2, f"127.0.0.1:{port}", f"127.0.0.1:{port}")
    stage = supervised([*toy(tmp_path / "run"), "--min-workers", "1", "--patience", "0"], agents=agents)
    stage.worker(1, 8)
    stage.agents[1].send_signal(signal.SIGTERM)
    assert stage.agents[1].wait(30) == 0
    assert stage.finish() == 0
    assert [event["world"] for event in stage.events("start")] == [2, 1]
    assert stage.event("training", stage.events("leaves")[0]["stamp"])["lost_steps"] == 0


def test_a_stranger_is_refused(supervised, toy, tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setenv("HOMEGROWN_TOKEN", "secret")
    agents = two_hosts(2, f"127.0.0.1:{port}", f"127.0.0.1:{port}")
    stage = supervised(toy(tmp_path / "run"), agents=agents[:1])
    monkeypatch.setenv("HOMEGROWN_TOKEN", "guessed")
    command = [sys.executable, "-m", "homegrown", "supervise", *toy(tmp_path / "other"), *agents[1].flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "refuses this agent" in done.stderr
    assert stage.event("refused")


def three_agents(hosts: Namespaces) -> list[AgentCommand]:
    """One worker on each of three hosts; the first leads."""
    leading = f"{hosts.address(0)}:29400"
    return [
        AgentCommand(["--workers", "1", "--hosts", "3", "--serve", leading], hosts.prefix(0)),
        *(AgentCommand(["--workers", "1", "--join", leading], hosts.prefix(number)) for number in (1, 2)),
    ]


@pytest.mark.slow
def test_a_majority_goes_on_when_a_host_is_cut_off(supervised, toy, tmp_path):
    """Three hosts on a network of their own: two go on with fewer workers, never beside the third's; it comes back."""
    reason = namespaces_missing()
    if reason:
        pytest.skip(reason)
    with Namespaces(3) as hosts:
        agents = three_agents(hosts)
        flags = [*toy(tmp_path / "run", pace=0.02), "--min-workers", "2", "--patience", "0"]
        stage = supervised(flags, workers=3, agents=agents, network=hosts)
        cut_off = stage.worker(2, 10)
        hosts.cut(2)
        stage.wait_for("the other two went on", lambda: stage.events("start")[1:])
        second = stage.events("start")[1]
        assert process_state(cut_off.pid) in "XZ"
        assert stage.events("fenced", agent=2)[0]["stamp"] < second["stamp"], "fenced before others took its place"
        assert (second["world"], second["hosts"]) == (2, ["host0", "host1"])
        hosts.heal(2)
        stage.wait_for("it joined again", lambda: len(stage.events("joined")) == 4)
        assert stage.finish() == 0
        assert [agent.wait(20) for agent in stage.agents] == [0, 0, 0]
    alone = Stage(tmp_path / "alone", workers=1, steps=40, flags=[*toy(tmp_path / "alone", pace=0.0), *QUICK])
    with alone:
        assert alone.finish() == 0
    assert losses(stage.run) == losses(alone.run)


@pytest.mark.slow
def test_the_minority_with_the_controller_waits(supervised, toy, tmp_path):
    """The leading host is the one cut off: nobody trains until the others are back."""
    reason = namespaces_missing()
    if reason:
        pytest.skip(reason)
    with Namespaces(3) as hosts:
        agents = three_agents(hosts)
        flags = [*toy(tmp_path / "run", pace=0.02), "--min-workers", "1", "--patience", "0"]
        stage = supervised(flags, workers=3, agents=agents, network=hosts)
        pids = [stage.worker(rank, 10).pid for rank in range(3)]
        hosts.cut(0)
        waiting = "waits for a majority of host0, host1, host2; there: host0"
        stage.wait_for("it waits", lambda: any(event["text"] == waiting for event in stage.events("waiting")))
        assert {process_state(pid) for pid in pids} <= {"X", "Z"}
        assert len(stage.events("start")) == 1
        hosts.heal(0)
        assert stage.finish() == 0
    assert stage.events("start")[-1]["world"] in (2, 3)


class TestCommandLine:
    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--serve", "a:1", "--join", "b:1"], "a host leads or joins, not both"),
            (["--hosts", "2"], "needs --serve HOST:PORT"),
            (["--workers", "2", "--min-workers", "3"], "min-workers = 3"),
            (["--no-such-flag", "1"], "no-such-flag"),
            (["no.toml"], "no.toml"),
            (["--join", "nowhere"], "--join nowhere"),
        ],
    )
    def test_mistakes(self, argv, message, capsys):
        assert main(["supervise", *argv]) in (1, 2)
        assert message in capsys.readouterr().err

    def test_unknown_faults(self, capsys):
        assert main(["faults", "--only", "flood"]) == 2
        assert "--only flood: no such fault; there are kill, " in capsys.readouterr().err

    def test_a_drill(self, toy, tmp_path, capsys):
        flags = toy(Path("{run}"), steps=8)
        argv = ["faults", "--only", "kill", "--workers", "1", "--steps", "8", "--out", str(tmp_path / "out")]
        assert main([*argv, "--command", flags[1], "--selftest", "true"]) == 0
        table = (tmp_path / "out" / "faults.md").read_text()
        assert capsys.readouterr().out == table
        assert table.splitlines()[2].endswith("| yes |")
