"""The soak, for half a minute: nothing is lost, nothing surprises. `tools/soak.py` runs for hours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .agents.child import child
from .tiny import tiny_directory

TOOL = Path(__file__).parents[2] / "tools" / "soak.py"


@pytest.mark.slow
def test_half_a_minute(tmp_path):
    few = ("--port", "0", "--threads", "1", "--pages-memory", "20MB", "--model-id", "tiny", "--log", "off")
    with child(tmp_path / "serve.log", str(tiny_directory(tmp_path)), *few) as server:
        command = [sys.executable, str(TOOL), server.url, "--pid", str(server.process.pid)]
        ran = subprocess.run([*command, "--seconds", "30", "--every", "5"], capture_output=True, text=True, timeout=300)
    result = json.loads(ran.stdout)
    assert (result["surprises"], result["losses"], ran.returncode) == ([], [], 0), ran.stderr
    assert result["requests"] > 100
    sorts = {name.rpartition(" ")[0] for name in result["counts"]}
    assert len(sorts) > 15
