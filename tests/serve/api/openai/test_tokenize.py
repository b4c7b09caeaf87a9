"""The tokenizer beside the APIs, used as evaluation harnesses do."""

import asyncio

from ...tiny import tiny_tokenizer
from .serving import asking, build, says

TEXT = "def f(x): 'é'"


def run(*requests):
    app = build(says("x"))

    async def all_of_them():
        async with asking(app) as http:
            return [await http.request(method, path, json=body) for method, path, body in requests]

    return asyncio.run(all_of_them())


def test_there_and_back():
    first, bare, strings = run(
        ("POST", "/tokenize", {"prompt": TEXT}),
        ("POST", "/tokenize", {"prompt": TEXT, "add_special_tokens": False}),
        ("POST", "/tokenize", {"prompt": "é", "add_special_tokens": False, "return_token_strs": True}),
    )
    tokenizer = tiny_tokenizer()
    assert bare.json() == {
        "count": len(tokenizer.encode(TEXT)),
        "max_model_len": 2048,
        "tokens": tokenizer.encode(TEXT),
        "token_strs": None,
    }
    assert first.json()["tokens"] == [tokenizer.bos_id, *bare.json()["tokens"]]
    assert len(strings.json()["token_strs"]) == strings.json()["count"]
    (back,) = run(("POST", "/detokenize", {"tokens": bare.json()["tokens"]}))
    assert back.json() == {"prompt": TEXT}


def test_a_chat():
    chat = {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"enable_thinking": False}}
    tokenized, answer = run(("POST", "/tokenize", chat), ("POST", "/v1/chat/completions", chat))
    assert tokenized.json()["count"] == answer.json()["usage"]["prompt_tokens"]
    rendered = tiny_tokenizer().render_chat(chat["messages"], enable_thinking=False)
    assert tiny_tokenizer().decode(tokenized.json()["tokens"]).endswith(rendered)


def test_info():
    (info,) = run(("GET", "/tokenizer_info", None))
    facts, tokenizer = info.json(), tiny_tokenizer()
    assert tokenizer.encode(facts["eos_token"]) == [tokenizer.eos_id] == [facts["eos_token_id"]]
    assert tokenizer.encode(facts["bos_token"]) == [tokenizer.bos_id]
    assert facts["chat_template"] == tokenizer.chat_template


def test_refusals():
    responses = run(
        ("POST", "/tokenize", {}),
        ("POST", "/tokenize", {"prompt": 3}),
        ("POST", "/tokenize", {"messages": [], "add_generation_prompt": False}),
        ("POST", "/detokenize", {"tokens": [10**9]}),
        ("POST", "/detokenize", {"tokens": [-1]}),
        ("POST", "/detokenize", {"tokens": "x"}),
    )
    assert [response.status_code for response in responses] == [400] * 6
    assert all(response.json()["error"]["message"].endswith(".") for response in responses)
