"""The helpers of these tests do what they say."""

import asyncio

import homegrown
from homegrown.serve.messages import Request, Sampling

from .scripted import ScriptedBackend
from .tiny import tiny_directory, tiny_tokenizer


def test_directory(tmp_path):
    model, tokenizer = homegrown.load(tiny_directory(tmp_path))
    assert model.config.vocab_size >= tokenizer.vocab_size == tiny_tokenizer().vocab_size


def test_script():
    async def run():
        request = Request(id="a", prompt=[1], sampling=Sampling(max_tokens=3))
        return [output async for output in ScriptedBackend([5, 6, 7, 8], at_a_time=2).submit(request)]

    first, last = asyncio.run(run())
    assert (first.tokens, last.tokens, last.finish) == ([5, 6], [7], "length")
