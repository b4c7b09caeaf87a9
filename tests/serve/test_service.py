"""From requests to events, over a backend that says what it is told and over a real model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from homegrown.generate import SamplingConfig, complete, generate
from homegrown.serve.card import ModelCard
from homegrown.serve.collect import Answer, Call, collect
from homegrown.serve.conversation import Completion, Conversation, Format, Options, Tool, ToolChoice
from homegrown.serve.errors import ApiError
from homegrown.serve.events import Begun, CallArguments, Compute, Ended, Failed, Scores, Text
from homegrown.serve.messages import Output, Request, TokenScore, Usage
from homegrown.serve.service import Service
from homegrown.tokenizer import MARKUP_TOKENS

from .scripted import ScriptedBackend
from .tiny import tiny_config, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TOOLS = (Tool(name="read", parameters={"type": "object", "properties": {"path": {"type": "string"}}}), Tool(name="ls"))
CALL = (
    "<longcat_tool_call>read\n<longcat_arg_key>path</longcat_arg_key>\n"
    "<longcat_arg_value>é</longcat_arg_value>\n</longcat_tool_call>\n"
)
ANSWER = f"hm é\n</longcat_think>\nI look: é\n{CALL}<longcat_tool_call>ls\n</longcat_tool_call>\n</longcat_s>"
EOS = TOKENIZER.eos_id
MARKUP = [TOKENIZER.token_id(token) for token in MARKUP_TOKENS]


def service(script: Any = (), **options: Any) -> Service:
    backend = script if hasattr(script, "submit") else ScriptedBackend(spoken(script), **options)
    card = ModelCard(id="tiny", context_length=1000, max_output=400)
    return Service(backend, TOKENIZER, tiny_config(), card)


def spoken(script: Any) -> Any:
    return TOKENIZER.encode(script) if isinstance(script, str) else script


def asked(given: Service, text: str = "hi", **more: Any) -> Conversation:
    fields = {name: more.pop(name) for name in list(more) if name in Conversation.__dataclass_fields__}
    shared = {name: more.pop(name) for name in list(more) if name in Options.__dataclass_fields__}
    options = Options(sampling=given.sampling(**more), **shared)
    return Conversation(messages=[{"role": "user", "content": text}], options=options, **fields)


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def answers(given: Service, request: Conversation | Completion) -> list[Answer]:
    async def run() -> list[Answer]:
        return await collect(given.events(await prepare(given, request)))

    return finish(run())


async def prepare(given: Service, request: Conversation | Completion) -> Any:
    if isinstance(request, Conversation):
        return await given.prepare_chat(request)
    return await given.prepare_completion(request)


def events(given: Service, request: Conversation | Completion) -> list[Any]:
    async def run() -> list[Any]:
        return [event async for event in given.events(await prepare(given, request))]

    return finish(run())


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 7, 1000])
def test_a_chat_with_thinking_and_calls(at_a_time):
    given = service(ANSWER, at_a_time=at_a_time, cached=5)
    (answer,) = answers(given, asked(given, tools=TOOLS))
    assert (answer.reasoning, answer.text) == ("hm é", "I look: é")
    assert answer.calls == [Call("read", '{"path": "é"}'), Call("ls", "{}")]
    assert [part.kind for part in answer.parts] == ["reasoning", "text", "call", "call"]
    whole, thought = TOKENIZER.encode(ANSWER), TOKENIZER.encode("hm é\n</longcat_think>")
    assert (answer.reason, answer.stop, answer.reasoning_tokens) == ("calls", None, len(thought))
    assert (answer.usage.completion_tokens, answer.usage.cached_tokens) == (len(whole), 5)


@settings(max_examples=60, deadline=None)
@drawn(st.lists(st.integers(0, TOKENIZER.vocab_size - 1) | st.sampled_from(MARKUP), max_size=40), st.integers(1, 9))
def test_any_tokens_in_any_outputs_give_the_same_answer(tokens, at_a_time):
    def made(size: int) -> Answer:
        given = service(tokens, at_a_time=size)
        (answer,) = answers(given, asked(given, tools=TOOLS, stop=("e", "(x"), seed=0))
        answer.usage.decode_s = 0.0
        for part in answer.parts:
            part.pieces = [part.text]
        return answer

    assert made(at_a_time) == made(1) == made(1000)


def test_the_order_of_events():
    given = service(ANSWER, at_a_time=4)
    made = events(given, asked(given, tools=TOOLS))
    assert isinstance(made[0], Begun)
    assert isinstance(made[-1], Ended)
    assert made[0].prompt_tokens == len(given.backend.requests[0].prompt)
    names = [type(event).__name__ for event in made]
    assert names.count("Begun") == names.count("Ended") == 1
    assert names.index("CallBegun") < names.index("CallArguments") < names.index("CallEnded")


def test_truncation_ends_well():
    given = service(ANSWER)
    for length in range(1, len(TOKENIZER.encode(ANSWER))):
        (answer,) = answers(given, asked(given, tools=TOOLS, max_tokens=length))
        assert (answer.reason, answer.usage.completion_tokens) == ("length", length)


def test_thinking_off():
    given = service("Hi.</longcat_s>")
    (answer,) = answers(given, asked(given, thinking=False))
    assert (answer.text, answer.reasoning, answer.reason) == ("Hi.", "", "stop")
    (answer,) = answers(given, asked(given))
    assert (answer.text, answer.reasoning) == ("", "Hi.")


def test_which_tools_may_be_called():
    given = service(f"{CALL}<longcat_tool_call>ls\n</longcat_tool_call>")

    def made(**choice: Any) -> Answer:
        (answer,) = answers(given, asked(given, thinking=False, tools=TOOLS, choice=ToolChoice(**choice)))
        return answer

    assert [call.name for call in made().calls] == ["read", "ls"]
    assert [call.name for call in made(names=("ls",)).calls] == ["ls"]
    assert made(names=("ls",)).text == CALL.strip()
    assert made(mode="none").text == f"{CALL}<longcat_tool_call>ls\n</longcat_tool_call>"
    one = made(parallel=False)
    assert ([call.name for call in one.calls], one.reason) == (["read"], "calls")
    assert one.usage.completion_tokens == len(TOKENIZER.encode(CALL)) - 1
    assert len(given.backend.aborted) == 1


@pytest.mark.parametrize("at_a_time", [1, 3, 100])
def test_stop_texts(at_a_time):
    given = service("a stop b\n</longcat_think>\none two stop three</longcat_s>", at_a_time=at_a_time)
    (answer,) = answers(given, asked(given, stop=("nowhere", "stop", "two stop")))
    assert (answer.reasoning, answer.text, answer.stop, answer.reason) == ("a stop b", "one ", "two stop", "stop")
    assert answer.usage.completion_tokens == len(TOKENIZER.encode("a stop b\n</longcat_think>\none two stop"))
    assert len(given.backend.aborted) == (at_a_time < 100)
    (answer,) = answers(given, asked(given, stop=("three!",)))
    assert (answer.text, answer.stop) == ("one two stop three", None)


def test_several_answers():
    given = service(lambda request: TOKENIZER.encode("x" * (request.sampling.seed % 7)))
    two = asked(given, answers=2, seed=2, thinking=False)
    one = asked(given, seed=5, thinking=False)

    async def run() -> list[Answer]:
        return await collect(given.events(await given.prepare_chat(two), await given.prepare_chat(one)))

    assert [answer.text for answer in finish(run())] == ["xx", "xxx", "xxxxx"]
    assert len({request.id for request in given.backend.requests}) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_closing_early_aborts_everything(count):
    given = service("x" * 100, pause=0.001)

    async def run() -> None:
        prepared = await given.prepare_chat(asked(given, answers=count, thinking=False))
        async with aclosing(given.events(prepared)) as made:
            async for event in made:
                if isinstance(event, Text):
                    break

    finish(run())
    assert sorted(given.backend.aborted) == sorted(request.id for request in given.backend.requests)
    assert len(given.backend.aborted) == count


def test_a_cancelled_client_aborts_everything():
    given = service("x" * 100, pause=0.01)

    async def run() -> None:
        prepared = await given.prepare_chat(asked(given, answers=2))
        task = asyncio.create_task(collect(given.events(prepared)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])

    finish(run())
    assert len(given.backend.aborted) == 2


class Speaker:
    """A backend that gives fixed outputs."""

    state = "ready"

    def __init__(self, *outputs: Output) -> None:
        self._outputs = outputs

    async def submit(self, request: Request) -> AsyncIterator[Output]:
        for output in self._outputs:
            yield output


@pytest.mark.parametrize(
    ("last", "kind", "message"),
    [
        (Output(id="", finish="error", error="The model is damaged."), "internal", "The model is damaged."),
        (Output(id="", finish="error"), "internal", "The engine failed."),
        (Output(id="", finish="abort"), "unavailable", "gave the request up"),
        (Output(id=""), "internal", "without giving a reason"),
    ],
)
def test_failures(last, kind, message):
    given = service(Speaker(Output(id="", tokens=TOKENIZER.encode("x"), usage=Usage(prompt_tokens=3)), last))
    made = events(given, asked(given, answers=2))
    assert isinstance(made[-1], Failed)
    assert sum(isinstance(event, Failed) for event in made) == 1
    assert made[-1].kind == kind
    assert message in made[-1].message
    with pytest.raises(ApiError, match=message):
        answers(given, asked(given))


def test_a_request_that_fails_at_once_has_not_begun():
    given = service(Speaker(Output(id="", finish="error", error="No.")))
    assert events(given, asked(given)) == [Failed("internal", "No.")]


def test_scores_of_visible_text():
    given = service("hm\n</longcat_think>\nHi é\n</longcat_s>", at_a_time=3)
    made = events(given, asked(given, logprobs=1))
    scored = [token for event in made if isinstance(event, Scores) for token in event.tokens]
    assert b"".join(token.bytes for token in scored) == "Hi é\n".encode()
    assert all(token.score == TokenScore(-0.5, ((token.token, -0.5),)) for token in scored)
    said = 0
    for event in made:  # scores come before their text
        said += len(b"".join(token.bytes for token in event.tokens)) if isinstance(event, Scores) else 0
        said -= len(event.text.encode()) if isinstance(event, Text) else 0
        assert said >= 0


def test_compute_of_visible_text():
    tokens = TOKENIZER.encode("hm</longcat_think>\nok ")
    broken = [index for index, byte in enumerate(TOKENIZER._bytes) if byte in (b"\xf0", b"\x9f", b"\x99", b"\x82")]
    smile = sorted(broken, key=lambda index: [b"\xf0", b"\x9f", b"\x99", b"\x82"].index(TOKENIZER._bytes[index]))
    spoken_tokens = [*tokens, *smile, EOS]
    compute = [float(index) for index in range(len(spoken_tokens))]
    given = service(Speaker(Output(id="", tokens=spoken_tokens, compute=compute, finish="stop", usage=Usage())))
    made = events(given, asked(given))
    pairs = [pair for event in made if isinstance(event, Compute) for pair in event.tokens]
    assert "".join(text for text, _ in pairs) == "ok 🙂"
    assert pairs[-1] == ("🙂", len(tokens) + 1.5)


def test_completions():
    given = service("world<longcat_user>!</longcat_think></longcat_s>")
    (answer,) = answers(given, Completion(prompt="hello ", options=Options(sampling=given.sampling()), echo=True))
    assert (answer.text, answer.reason) == ("hello world!</longcat_think>", "stop")
    assert given.backend.requests[0].prompt == [TOKENIZER.bos_id, *TOKENIZER.encode("hello ")]
    ids = TOKENIZER.encode("ab")
    (answer,) = answers(
        given, Completion(prompt=ids, options=Options(sampling=given.sampling(), stop=("wor",)), echo=True)
    )
    assert (answer.text, answer.stop) == ("ab", "wor")
    assert given.backend.requests[1].prompt == ids


def test_prompt_scores_of_a_completion():
    ids = TOKENIZER.encode("ab")
    scores = [None, TokenScore(-1.0, ((ids[1], -1.0),))]
    outputs = [
        Output(id="", tokens=[ids[0]], scores=[TokenScore(-2.0)], prompt_scores=scores, usage=Usage(prompt_tokens=2)),
        Output(id="", tokens=[EOS], scores=[TokenScore(-3.0)], finish="stop", usage=Usage(prompt_tokens=2)),
    ]
    given = service(Speaker(*outputs))
    sampling = given.sampling(logprobs=1, prompt_logprobs=1)
    (answer,) = answers(given, Completion(prompt=ids, options=Options(sampling=sampling), echo=True))
    assert [token.score for token in answer.prompt_scores] == scores
    assert [(token.token, token.score.logprob) for token in answer.scores] == [(ids[0], -2.0), (EOS, -3.0)]
    assert answer.text == "aba"


def test_what_the_engine_is_asked():
    given = service("x")
    request = asked(
        given,
        answers=2,
        seed=2**63 - 1,
        max_tokens=5000,
        min_tokens=3000,
        stop_ids=(7,),
        tenant="t",
        priority=2,
        salt="s",
    )
    prepared = finish(given.prepare_chat(request))
    first, second = prepared.requests
    room = 1000 - prepared.prompt_tokens
    assert first.sampling.max_tokens == first.sampling.min_tokens == min(400, room)
    assert (first.sampling.seed, second.sampling.seed) == (2**63 - 1, -(2**63))
    roles = {TOKENIZER.token_id(f"<longcat_{role}>") for role in ("system", "user", "assistant", "observation")}
    assert set(first.sampling.stop_ids) == {7} | roles
    assert (first.tenant, first.priority, first.salt, first.sampling.grammar) == ("t", 2, "s", None)
    assert given.sampling(top_k=-1, temperature=None, seed=3).top_k == 0
    assert given.sampling().seed != given.sampling().seed


def test_a_turn_ends_where_another_begins():
    tokens = TOKENIZER.encode("Hi.<longcat_user>")
    given = service(Speaker(Output(id="", tokens=tokens, finish="stop", usage=Usage())))
    (answer,) = answers(given, asked(given, thinking=False))
    assert (answer.text, answer.reason) == ("Hi.", "stop")


def test_grammars():
    given = service("x")
    required = asked(given, tools=TOOLS, choice=ToolChoice(mode="required", names=("ls",)))
    grammar = finish(given.prepare_chat(required)).requests[0].sampling.grammar
    assert grammar.after == TOKENIZER.token_id("</longcat_think>")
    assert "read" not in grammar.lark
    off = asked(given, thinking=False, format=Format(kind="json"))
    assert finish(given.prepare_chat(off)).requests[0].sampling.grammar.after == -1
    plain = Completion(
        prompt="x", options=Options(sampling=given.sampling()), format=Format(kind="regex", pattern="a+")
    )
    assert "a+" in finish(given.prepare_completion(plain)).requests[0].sampling.grammar.lark


@pytest.mark.parametrize(
    ("more", "kind", "param"),
    [
        ({"text": "word " * 500}, "context_length", "messages"),
        ({"temperature": 3.0}, "invalid", "temperature"),
        ({"choice": ToolChoice(mode="required")}, "invalid", "tool_choice"),
        ({"format": Format(kind="regex", pattern="(")}, "invalid", "response_format"),
        ({"format": Format(kind="lark", pattern="nonsense")}, "invalid", "response_format"),
        ({"format": Format(kind="schema", schema={"type": "no"})}, "invalid", "response_format"),
        (
            {"tools": (Tool(name="a", strict=True, parameters={"properties": {"x": {"type": "no"}}}),)},
            "invalid",
            "tools",
        ),
    ],
)
def test_refusals(more, kind, param):
    given = service("x")
    with pytest.raises(ApiError) as caught:
        finish(given.prepare_chat(asked(given, **more)))
    assert (caught.value.kind, caught.value.param) == (kind, param)


@pytest.mark.parametrize(("prompt", "message"), [([], "no tokens"), ([304], "304"), ("\ud800", "surrogate")])
def test_bad_prompts(prompt, message):
    given = service("x")
    with pytest.raises(ApiError, match=message) as caught:
        finish(given.prepare_completion(Completion(prompt=prompt, options=Options(sampling=given.sampling()))))
    assert caught.value.param == "prompt"


def test_a_backend_that_is_not_ready():
    given = service("x")
    given.backend.state = "starting"
    with pytest.raises(ApiError, match="it is starting") as caught:
        finish(given.prepare_chat(asked(given)))
    assert caught.value.kind == "unavailable"
    assert caught.value.retry_after


def test_counting_and_tokenising():
    given = service("x")
    request = asked(given, "hello", tools=TOOLS)
    prepared = finish(given.prepare_chat(request))
    assert finish(given.count(request)) == prepared.prompt_tokens == len(prepared.requests[0].prompt)
    assert finish(given.tokenize_chat(request)) == prepared.requests[0].prompt
    assert finish(given.tokenize("a</longcat_s>")) == [TOKENIZER.bos_id, *TOKENIZER.encode("a"), EOS]
    assert given.detokenize(finish(given.tokenize("a é", bos=False))) == "a é"
    assert given.token_bytes(EOS) == b"</longcat_s>"
    with pytest.raises(ApiError, match="304"):
        given.detokenize([304])


class ModelBackend(Speaker):
    """A real model, one request at a time."""

    def __init__(self) -> None:
        self._model = tiny_model()

    async def submit(self, request: Request) -> AsyncIterator[Output]:
        sampling = SamplingConfig(temperature=0, max_tokens=request.sampling.max_tokens)
        usage = Usage(prompt_tokens=len(request.prompt))
        for piece in generate(self._model, None, request.prompt, sampling):
            await asyncio.sleep(0)
            yield Output(id=request.id, tokens=[piece.token], finish=piece.finish, usage=usage)


def test_a_completion_equals_generate():
    given = service(ModelBackend())
    for prompt in ("def f(x):", "for i in", "é"):
        (answer,) = answers(given, Completion(prompt=prompt, options=Options(sampling=given.sampling(max_tokens=40))))
        expected = complete(tiny_model(), TOKENIZER, prompt, SamplingConfig(temperature=0, max_tokens=40))
        assert answer.text == expected


def test_a_chat_with_a_real_model_reads_whatever_it_says():
    given = service(ModelBackend())
    for text in ("hi", "print", "x y z"):
        made = events(given, asked(given, text, tools=TOOLS, max_tokens=60))
        assert isinstance(made[-1], Ended)
        assert not any(isinstance(event, CallArguments) for event in made[:1])
