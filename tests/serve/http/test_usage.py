"""Usage records: what is written, and what survives."""

import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime

import pytest

from homegrown.config import UserError
from homegrown.serve.http.clients import Client
from homegrown.serve.http.exchange import Exchange
from homegrown.serve.http.metered import Answer
from homegrown.serve.http.usage import DayTotal, UsageStore, read_days
from homegrown.serve.messages import Request, Sampling, Usage

TODAY = datetime.now(UTC).date().isoformat()


def answer(name="ada", prompt=10, completion=5, cached=4):
    return Answer(
        request=Request(id="r", prompt=[1] * prompt, sampling=Sampling(max_tokens=1)),
        exchange=Exchange(id="x", method="POST", path="/v1/completions", client=Client(name=name, tenant="lab")),
        usage=Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached),
        finish="stop",
    )


def test_sums_by_day_key_and_model(tmp_path):
    store = UsageStore(tmp_path / "sub/usage.db", "tiny")
    for name in ("ada", "ada", "bob"):
        store.ended(answer(name))
    store.close()
    ada, bob = read_days(tmp_path / "sub/usage.db")
    assert ada == DayTotal(TODAY, "ada", "tiny", answers=2, prompt=20, cached=8, completion=10)
    assert (bob.name, bob.answers) == ("bob", 1)
    assert read_days(tmp_path / "sub/usage.db", name="bob") == [bob]
    assert read_days(tmp_path / "sub/usage.db", since="2999-01-01") == []


def test_what_is_spent_is_known_after_a_restart(tmp_path):
    store = UsageStore(tmp_path / "usage.db", "tiny")
    store.ended(answer())
    store.close()
    again = UsageStore(tmp_path / "usage.db", "tiny")
    spent = again.spent("ada")
    again.close()
    assert (spent.today, spent.this_month, spent.day) == (15, 15, TODAY)


def test_old_records_go_and_sums_stay(tmp_path):
    store = UsageStore(tmp_path / "usage.db", "tiny")
    store.ended(answer())
    store.close()
    with sqlite3.connect(tmp_path / "usage.db") as database:
        database.execute("UPDATE records SET time = ?", (time.time() - 91 * 24 * 3600,))
    database.close()
    UsageStore(tmp_path / "usage.db", "tiny").close()
    with sqlite3.connect(tmp_path / "usage.db") as database:
        assert database.execute("SELECT count(*) FROM records").fetchone() == (0,)
    database.close()
    assert len(read_days(tmp_path / "usage.db")) == 1


def test_kill_loses_less_than_the_last_second(tmp_path):
    """Answers end 20 times a second; the process is killed; all but those of the last second were written."""
    script = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(sys.path[0])!r})
        from pathlib import Path
        from tests.serve.http.test_usage import UsageStore, answer
        store = UsageStore(Path(sys.argv[1]), "tiny")
        while True:
            store.ended(answer())
            print(time.time(), flush=True)
            time.sleep(0.05)
    """)
    child = subprocess.Popen([sys.executable, "-c", script, tmp_path / "usage.db"], stdout=subprocess.PIPE, text=True)
    lines = [float(child.stdout.readline()) for _ in range(40)]
    child.send_signal(signal.SIGKILL)
    killed = time.time()
    lines += [float(line) for line in child.stdout.read().splitlines() if line]
    child.wait()
    due = sum(when < killed - 1.0 for when in lines)
    assert due > 0
    (day,) = read_days(tmp_path / "usage.db")
    assert day.answers >= due
    with sqlite3.connect(tmp_path / "usage.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "usage.db"
    path.write_text("hello, this is certainly not a database" * 30)
    with pytest.raises(UserError, match="cannot be used for usage records"):
        UsageStore(path, "tiny")
    with pytest.raises(UserError, match="no such file"):
        read_days(tmp_path / "none.db")
