"""The recipes for coding agents, each run as it stands in the documentation, by the agent itself.

The agents' own commands are not Python packages: where they are not installed, their tests are skipped. They are big
and come from npm: `npm install @anthropic-ai/claude-code opencode-ai @openai/codex`.
"""

import json
from itertools import pairwise

import pytest

from .recipes import blocks, command, run
from .stage import call, in_turn, playing, stage

TASK = "Write hello.py, change it, run it."
FILE = "print(6 * 9)\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def prompts_of(live):
    return [request.prompt for request in live.front.backend._inner.requests]


def begin_alike(prompts):
    """Whether each prompt continues the one before it, so that the prefix cache has all of it."""
    return all(after[: len(before)] == before for before, after in pairwise(prompts))


@pytest.mark.slow
def test_claude_code(folder):
    command("claude")
    path = str(folder / "hello.py")
    part = in_turn(
        call("Write", file_path=path, content="print(6 * 7)\n"),
        call("Edit", file_path=path, old_string="6 * 7", new_string="6 * 9"),
        call("Bash", command="python3 hello.py", description="Run it"),
        lambda scene: f"It prints {scene.results[-1]}.",
    )
    (setting,) = blocks("Claude Code", "sh")
    with stage(playing(part)) as live:
        said = run(f'{setting.rstrip()} -p "{TASK}" --allowedTools Write,Edit,Bash', live.url, folder)
        assert said.strip() == "It prints 54."
        assert (folder / "hello.py").read_text() == FILE
        assert begin_alike(prompts_of(live))


@pytest.mark.slow
def test_opencode(folder):
    command("opencode")
    path = str(folder / "hello.py")
    part = in_turn(
        call("write", filePath=path, content="print(6 * 7)\n"),
        call("edit", filePath=path, oldString="6 * 7", newString="6 * 9"),
        call("bash", command="python3 hello.py", description="Run it"),
        lambda scene: f"It prints {scene.results[-1].strip()}.",
    )
    (config,) = blocks("OpenCode", "json")
    assert json.loads(config)["model"] == "homegrown/longcat-2.0"

    def title_or(scene):
        return part(scene) if scene.tools else "A title"

    with stage(playing(title_or)) as live:
        (folder / "opencode.json").write_text(config.replace("http://127.0.0.1:8000", live.url))
        said = run(f'opencode run "{TASK}"', live.url, folder)
        assert "It prints 54." in said
        assert (folder / "hello.py").read_text() == FILE
        assert begin_alike(prompts_of(live)[1:])


@pytest.mark.slow
def test_codex(folder):
    command("codex")
    part = in_turn(
        call("exec_command", cmd="echo 'print(6 * 7)' > hello.py"),
        call("exec_command", cmd="sed -i 's/6 . 7/6 * 9/' hello.py"),
        call("exec_command", cmd="python3 hello.py"),
        lambda scene: f"It prints {scene.results[-1].split()[-1]}.",
    )
    (config,) = blocks("Codex", "toml")
    with stage(playing(part)) as live:
        own = folder.parent / "project-home" / ".codex"
        own.mkdir(parents=True)
        (own / "config.toml").write_text(config.replace("http://127.0.0.1:8000", live.url))
        flags = "--skip-git-repo-check --dangerously-bypass-approvals-and-sandbox"
        said = run(f'codex exec {flags} "{TASK}"', live.url, folder, {"HOMEGROWN_API_KEY": "none"})
        assert "It prints 54." in said
        assert (folder / "hello.py").read_text() == FILE
        assert begin_alike(prompts_of(live))


@pytest.mark.slow
def test_mini_swe_agent(folder):
    command("mini")
    part = in_turn(
        "I begin.\n" + call("bash", command="echo 'print(6 * 7)' > hello.py"),
        call("bash", command="sed -i 's/6 . 7/6 * 9/' hello.py"),
        call("bash", command="python3 hello.py"),
        lambda scene: (
            call("bash", command="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT") if "54" in scene.results[-1] else "?"
        ),
    )
    (setting,) = blocks("mini-swe-agent", "sh")
    with stage(playing(part)) as live:
        run(f'{setting.rstrip()} --task "{TASK}" --yolo --exit-immediately', live.url, folder)
        assert (folder / "hello.py").read_text() == FILE
        assert begin_alike(prompts_of(live))
