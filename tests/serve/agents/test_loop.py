"""A coding agent reads, edits and runs a file, over every dialect."""

import re
from itertools import pairwise

import pytest

from homegrown.serve.engine.engine import Engine
from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.worker.thread import ThreadBackend

from ..tiny import tiny_model, tiny_tokenizer
from .coder import CODERS, TOOLS, MessagesCoder, ResponsesCoder, Workshop, schema
from .stage import LONG, call, playing, stage

BROKEN = """import sys


def add(a, b):
    return a - b  # "no </longcat_tool_call> é"


print(add(2, 3) * int(sys.argv[1]))
"""

dialects = pytest.mark.parametrize("coder", CODERS, ids=lambda coder: coder.path)
streaming = pytest.mark.parametrize("stream", (True, False), ids=("stream", "whole"))


def freely(number):
    return "auto"


def mend(scene):
    """What a model would do: find the line in what it read, change it, see what that did."""
    if not scene.results:
        return "I look at it first.\n" + call("read_file", path="add.py")
    if len(scene.results) == 1:
        (line,) = re.findall(r"return a - b.*", scene.results[0])
        changed = line.replace("-", "+")
        first = call("edit_file", path="add.py", old=line, new=changed)
        return "Found.\n" + first + call("run_file", path="add.py", times=2)
    if len(scene.results) == 3:
        return call("run_file", path="sub.py", times=1)
    return f"It prints {scene.results[2].split()[-1]}; and the other: {scene.results[3]}"


@pytest.fixture
def workshop(tmp_path):
    (tmp_path / "add.py").write_text(BROKEN)
    return Workshop(tmp_path)


@pytest.fixture(scope="module")
def scripted():
    with stage(playing(mend)) as live:
        yield live


@dialects
@streaming
def test_a_file_is_mended(scripted, workshop, coder, stream):
    said = coder(scripted.url, TOOLS, stream).work("Mend add.py and run it.", workshop, freely)
    error = "Error: " if coder is MessagesCoder else ""  # is_error is a field of this dialect alone
    assert said == f"It prints 10; and the other: {error}there is no sub.py here"
    assert (workshop.folder / "add.py").read_text() == BROKEN.replace("a - b", "a + b")
    assert [(name, wrong) for name, _, _, wrong in workshop.done] == [
        ("read_file", False), ("edit_file", False), ("run_file", False), ("run_file", True),
    ]  # fmt: skip
    assert workshop.done[2][1] == {"path": "add.py", "times": 2}


@dialects
def test_every_prompt_begins_with_the_one_before(scripted, workshop, coder):
    """Or the prefix cache would be of no use to agents."""
    backend = scripted.front.backend._inner
    seen = len(backend.requests)
    coder(scripted.url, TOOLS, True).work("Mend add.py and run it.", workshop, freely)
    prompts = [request.prompt for request in backend.requests[seen:]]
    assert len(prompts) == 4
    for before, after in pairwise(prompts):
        assert after[: len(before)] == before


def test_thinking_goes_back_and_forth(scripted, workshop):
    """Signed in one dialect, encrypted in the other, and still in the prompt of the last round."""
    thinking = {
        MessagesCoder: {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        ResponsesCoder: {"reasoning": {"effort": "high"}},
    }
    for coder, options in thinking.items():
        (workshop.folder / "add.py").write_text(BROKEN)
        said = coder(scripted.url, TOOLS, True, **options).work("Mend it.", workshop, freely)
        assert said.startswith("It prints 10")
        prompt = tiny_tokenizer().decode(scripted.front.backend._inner.requests[-1].prompt)
        assert prompt.count("Let me see.\n</longcat_think>") == 3


CLOSED = {
    "read_file": schema(path={"enum": ["add.py"]}),
    "edit_file": schema(path={"enum": ["add.py"]}, old={"enum": ["a - b", "a + b"]}, new={"enum": ["a + b", "a * b"]}),
    "run_file": schema(path={"enum": ["add.py"]}, times={"enum": [1, 2, 3]}),
}
"""Tools whose every call makes sense, so that a model that knows nothing can use them."""


@pytest.fixture(scope="module")
def real():
    model = tiny_model(max_position_embeddings=LONG)
    engine = Engine(model, EngineOptions(pages=1024, page_size=16, invariant=True), tiny_tokenizer())
    with stage(ThreadBackend(engine)) as live:
        yield live
    engine.check()


def plan(number):
    """Each tool by name, then any of them."""
    return [*CLOSED, "required", ""][number]


@dialects
def test_a_real_model_drives_the_loop(real, tmp_path, coder):
    """Held to a grammar, a tiny random model reads, edits and runs; the same seed does the same again."""
    logs = []
    for name, stream in (("one", True), ("two", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "add.py").write_text(BROKEN)
        workshop = Workshop(tmp_path / name)
        options = {"seed": 7, "parallel_tool_calls": False}
        if coder is MessagesCoder:
            options = {"seed": 7}
        coder(real.url, CLOSED, stream, **options).work("Mend it.", workshop, plan)
        logs.append(workshop.done)
    assert [name for name, *_ in logs[0]][:3] == [*CLOSED]
    assert len(logs[0]) >= 4
    for name, arguments, _, _ in logs[0]:
        for key, value in arguments.items():
            assert value in CLOSED[name]["properties"][key]["enum"]
    assert logs[0] == logs[1]
