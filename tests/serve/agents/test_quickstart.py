"""From nothing to an answer: what docs/serving.md says of a fresh clone, done as it says."""

import re
import shlex
import signal
import subprocess
import threading
import urllib.request

import anthropic
import openai
import pytest
import tyro

from homegrown.cli.main import main
from homegrown.cli.serve import Serve

from ...train import tiny as training
from ..http.live import until
from .child import child
from .recipes import ADDRESS, PAGE, blocks

CHAT = {"model": "quickstart", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the quickstart has run: its own model and recipe, a hundred small files, four steps."""
    folder = tmp_path_factory.mktemp("clone")
    training.write_corpus(folder / "corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("homegrown.train.quickstart.CORPUS", str(folder / "corpus"))
        train, serve = blocks("Start", "sh")[0].strip().splitlines()
        assert (train, serve) == ("homegrown quickstart", "homegrown serve runs/quickstart/export")
        assert main(["quickstart", "--steps", "4", "--device", "cpu"]) == 0
    return folder


@pytest.fixture(scope="module")
def server(place):
    few = ("--port", "0", "--threads", "1", "--pages-memory", "100MB", "--state", str(place / "state"))
    with child(place / "serve.log", str(place / "runs/quickstart/export"), *few) as server:
        yield server


@pytest.fixture
def chatgpt(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def get(server, path):
    with urllib.request.urlopen(f"{server.url}{path}", timeout=10) as response:
        assert response.status == 200
        return response.read().decode()


@pytest.mark.parametrize("number", range(2))
def test_first_steps_in_python(server, number, capsys):
    exec(blocks("Start", "python")[number].replace(ADDRESS, server.url), {})
    assert capsys.readouterr().out  # an untrained model may end its answer at once: then it is an empty line


def test_first_steps_in_a_shell(server):
    shown = subprocess.run(["bash", "-c", f"{server.example} --silent --fail"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert '"object":"chat.completion"' in shown.stdout


def test_chat_completions(chatgpt):
    whole = chatgpt.chat.completions.create(**CHAT, temperature=0)
    assert whole.usage.completion_tokens == 12
    chunks = list(
        chatgpt.chat.completions.create(**CHAT, temperature=0, stream=True, stream_options={"include_usage": True})
    )
    told = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    for key in ("content", "reasoning_content"):
        assert "".join(getattr(delta, key, None) or "" for delta in told) == (
            getattr(whole.choices[0].message, key, None) or ""
        )
    assert chunks[-1].usage.completion_tokens == 12


def test_completions(chatgpt):
    asked = {"model": "quickstart", "prompt": "def main():", "max_tokens": 12, "temperature": 0}
    whole = chatgpt.completions.create(**asked).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in chatgpt.completions.create(**asked, stream=True)) == whole


def test_responses(chatgpt):
    asked = {"model": "quickstart", "input": "Hello", "max_output_tokens": 12, "temperature": 0}
    whole = chatgpt.responses.create(**asked)
    with chatgpt.responses.stream(**asked) as stream:
        last = list(stream)[-1].response
    assert last.status == whole.status == "incomplete"
    assert last.usage.output_tokens == whole.usage.output_tokens == 12
    assert last.output_text == whole.output_text


def test_messages(claude):
    whole = claude.messages.create(**CHAT, extra_body={"temperature": 0})
    with claude.messages.stream(**CHAT, extra_body={"temperature": 0}) as stream:
        told = stream.get_final_message()
    assert told.stop_reason == whole.stop_reason == "max_tokens"
    assert [block.model_dump() for block in told.content] == [block.model_dump() for block in whole.content]
    counted = claude.messages.count_tokens(model=CHAT["model"], messages=CHAT["messages"])
    usage = whole.usage
    assert (
        counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    )


def test_what_it_says_of_itself(server):
    assert get(server, "/health") == '{"status":"ok"}'
    assert get(server, "/ready") == '{"status":"ready"}'
    assert "<html" in get(server, "/")
    metrics = get(server, "/metrics")
    generated = re.search(r"^vllm:generation_tokens_total\{.*\} (\d+)", metrics, re.MULTILINE)
    assert int(generated[1]) > 50


def test_usage_is_written_down(server, place, capsys):
    until(lambda: (place / "state" / "usage.db").exists())
    assert main(["serve", "usage", str(place / "state")]) == 0
    assert "quickstart" in capsys.readouterr().out


def test_the_end(place):
    """What runs when SIGTERM comes is finished, what comes behind it is refused, and the exit code is 0."""
    few = ("--port", "0", "--threads", "1", "--pages-memory", "100MB")
    with child(place / "end.log", str(place / "runs/quickstart/export"), *few) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        begun, chunks = threading.Event(), []

        def read():
            asked = {"model": "quickstart", "prompt": "def", "max_tokens": 300, "extra_body": {"ignore_eos": True}}
            for chunk in client.completions.create(**asked, stream=True):
                chunks.append(chunk)
                begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(60)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError):
            until(lambda: client.chat.completions.create(**CHAT) is None)
        reader.join(60)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert server.process.wait(30) == 0


def commands(name):
    """Every such command in the page's shells, as arguments."""
    code = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)).replace("\\\n", " ")
    return [
        shlex.split(line.partition(">>")[0])[2:] for line in code.splitlines() if line.startswith(f"homegrown {name}")
    ]


def test_every_command_is_understood(place, capsys):
    told = commands("serve")
    assert len(told) >= 4
    for arguments in told:
        if arguments[0] == "key":
            assert main(["serve", *arguments]) == 0
            assert f"[keys.{arguments[1]}]" in capsys.readouterr().out.replace('"', "")
        elif arguments[0] != "usage":
            tyro.cli(tyro.conf.OmitArgPrefixes[Serve], args=arguments)


def test_every_flag_is_explained(capsys):
    """The page names the flags that there are, all of them."""
    with pytest.raises(SystemExit):
        tyro.cli(tyro.conf.OmitArgPrefixes[Serve], args=["--help"])
    there = set(re.findall(r"--[a-z][\w-]+", capsys.readouterr().out)) - {"--help"}
    section = PAGE.read_text("utf-8").partition("## Flags\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(--[a-z][\w-]+)", section, re.M))
    assert told == {flag for flag in there if not flag.startswith("--no-")}
