"""Plain completions through the official SDK; log probabilities against the model run directly."""

import asyncio

import pytest

from homegrown.serve.messages import TokenScore

from ...scripted import ScriptedBackend
from ...tiny import tiny_tokenizer
from .serving import DirectBackend, asking, build, client, says, tokens


def post(backend, **fields):
    app = build(backend)

    async def run():
        async with asking(app) as http:
            return await http.post("/v1/completions", json=fields)

    return asyncio.run(run())


def test_whole_and_streamed():
    with client(build(says("x = 1\né"))) as sdk:
        whole = sdk.completions.create(model="tiny", prompt="def")
        chunks = list(
            sdk.completions.create(model="tiny", prompt="def", stream=True, stream_options={"include_usage": True})
        )
    (choice,) = whole.choices
    assert (whole.object, whole.id[:5]) == ("text_completion", "cmpl-")
    assert (choice.text, choice.index, choice.finish_reason, choice.logprobs) == ("x = 1\né", 0, "stop", None)
    *parts, last, usage = chunks
    assert "".join(part.choices[0].text for part in [*parts, last]) == choice.text
    assert [part.choices[0].finish_reason for part in [*parts, last]] == [None] * len(parts) + ["stop"]
    assert usage.choices == []
    assert usage.usage.to_dict() == whole.usage.to_dict()


def test_sixteen_tokens_unless_said():
    with client(build(says("x = 1\n" * 50))) as sdk:
        assert sdk.completions.create(model="tiny", prompt="a").usage.completion_tokens == 16
        assert sdk.completions.create(model="tiny", prompt="a", max_tokens=3).choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", [None]),
        (["ab", "é"], [None, None]),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_forms_of_prompts(prompt, prompts):
    backend = says("x", "y")
    response = post(backend, prompt=prompt, n=2)
    assert response.status_code == 200, response.text
    body = response.json()
    assert [choice["index"] for choice in body["choices"]] == list(range(2 * len(prompts)))
    sent = [request.prompt for request in backend.requests]
    if prompts[0] is not None:
        assert sent == [ids for ids in prompts for _ in range(2)]
    else:
        texts = [prompt] if isinstance(prompt, str) else prompt
        assert sent == [[tiny_tokenizer().bos_id, *tokens(text)] for text in texts for _ in range(2)]
    assert body["usage"]["prompt_tokens"] == sum(len(ids) for ids in sent[::2])


def test_what_the_evaluation_harness_needs():
    """Its request, and its arithmetic on the response."""
    backend = DirectBackend()
    contexts = [tokens("def f(x):"), tokens("print(")]
    continuations = [tokens("\n    return"), tokens("'é'")]
    prompts = [a + b for a, b in zip(contexts, continuations, strict=True)]
    response = post(
        backend, model="tiny", prompt=prompts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
    )
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    for choice, prompt, context in zip(choices, prompts, contexts, strict=True):
        logprobs = choice["logprobs"]
        assert {len(values) for values in logprobs.values()} == {len(prompt) + 1}
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        table = backend.logprobs(prompt)
        expected = [table[index, token].item() for index, token in enumerate(prompt[1:])]
        assert logprobs["token_logprobs"][1:-1] == pytest.approx(expected, abs=1e-9)
        assert logprobs["token_logprobs"][-1] == pytest.approx(table[-1].max().item(), abs=1e-9)
        read = range(len(context), len(prompt))
        greedy = all(max(logprobs["top_logprobs"][i].values()) == logprobs["token_logprobs"][i] for i in read)
        assert greedy == all(table[i - 1].argmax() == prompt[i] for i in read)
        text = tiny_tokenizer().decode(prompt)
        assert choice["text"].startswith(text)
        assert logprobs["text_offset"][0] == 0
        assert logprobs["text_offset"][-1] == len(text)


def test_a_greedy_continuation_is_known_as_one():
    backend = DirectBackend()
    prompt = tokens("for i in")
    for _ in range(4):
        prompt.append(int(backend.logprobs(prompt)[-1].argmax()))
    response = post(backend, prompt=[prompt], temperature=0, max_tokens=1, logprobs=1, echo=True)
    logprobs = response.json()["choices"][0]["logprobs"]
    for top, own in list(zip(logprobs["top_logprobs"], logprobs["token_logprobs"], strict=True))[-5:]:
        assert max(top.values()) == own


def test_streamed_log_probabilities_join_to_the_whole():
    with client(build(DirectBackend())) as sdk:
        fields = {"model": "tiny", "prompt": "for", "max_tokens": 5, "logprobs": 3, "echo": True, "temperature": 0}
        whole = sdk.completions.create(**fields).choices[0]
        chunks = [chunk.choices[0] for chunk in sdk.completions.create(stream=True, **fields)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    for name, values in whole.logprobs.to_dict().items():
        joined = [value for chunk in chunks if chunk.logprobs for value in chunk.logprobs.to_dict()[name]]
        assert joined == values


@pytest.mark.parametrize("stream", [False, True])
def test_scoring_a_prompt_without_going_on(stream):
    with client(build(DirectBackend())) as sdk:
        made = sdk.completions.create(
            model="tiny", prompt="for i", max_tokens=0, logprobs=1, echo=True, stream=stream, n=1
        )
        choices = [chunk.choices[0] for chunk in made] if stream else made.choices
    assert "".join(choice.text for choice in choices) == "for i"
    assert choices[-1].finish_reason == "length"
    values = [value for choice in choices if choice.logprobs for value in choice.logprobs.token_logprobs]
    table = DirectBackend().logprobs(prompt_of("for i"))
    expected = [table[index, token].item() for index, token in enumerate(prompt_of("for i")[1:])]
    assert values == [None, *(pytest.approx(value, abs=1e-9) for value in expected)]
    offsets = [value for choice in choices if choice.logprobs for value in choice.logprobs.text_offset]
    assert offsets[:3] == [0, 0, len(tiny_tokenizer().decode(tokens("for i")[:1]))]


def prompt_of(text):
    return [tiny_tokenizer().bos_id, *tokens(text)]


def test_names_of_tokens_stay_distinct_and_carry_all_bytes():
    with client(build(says("é"))) as sdk:
        made = sdk.completions.create(model="tiny", prompt=tokens("é"), logprobs=1, echo=False)
    names = made.choices[0].logprobs.tokens
    data = b"".join(
        bytes.fromhex(name.removeprefix("bytes:").replace("\\x", "")) if name.startswith("bytes:") else name.encode()
        for name in names
    )
    assert data.startswith("é".encode())


def test_the_best_of_several():
    class Rising(ScriptedBackend):
        """The more requests, the likelier the answer."""

        async def submit(self, request):
            number = len(self.requests)
            async for output in super().submit(request):
                output.scores = [TokenScore(-1.0 / (number + 1)) for _ in output.scores]
                yield output

    backend = Rising(lambda _: texts[len(backend.requests) - 1])
    texts = [[*tokens(text), tiny_tokenizer().eos_id] for text in ("bad", "poor", "good")]
    response = post(backend, prompt="x", n=2, best_of=3)
    assert [choice["text"] for choice in response.json()["choices"]] == ["good", "poor"]
    assert response.json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, None),
        ({"prompt": [[]]}, None),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], 1]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [10**6]}, None),
        ({"prompt": [-1]}, None),
        ({"prompt": ["x"] * 2000}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": -1, "echo": True}, "max_tokens"),
        ({"prompt": "x", "best_of": 2, "n": 3}, "best_of"),
        ({"prompt": "x", "best_of": 2, "stream": True}, "best_of"),
        ({"prompt": "x", "logprobs": 10**6}, None),
        ({"prompt": "x", "logprobs": "all"}, "logprobs"),
    ],
)
def test_refusals(fields, param):
    response = post(says("x"), **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    if param:
        assert error["param"].startswith(param), error
