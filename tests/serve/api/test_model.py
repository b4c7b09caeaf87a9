"""Both dialects over a real tiny model: what they say is what the model says, streamed or not."""

from homegrown.serve.messages import Request

from ..tiny import tiny_tokenizer
from .dialects import build, messages_client, responses_client
from .openai.serving import DirectBackend


class Recording(DirectBackend):
    """Keeps what was asked and which tokens were made."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.made: list[list[int]] = []

    async def submit(self, request):
        self.requests.append(request)
        self.made.append([])
        async for output in super().submit(request):
            self.made[-1] += output.tokens
            yield output


def test_messages():
    backend = Recording()
    asked = {"model": "tiny", "max_tokens": 12, "messages": [{"role": "user", "content": "print"}]}
    with messages_client(build(backend)) as sdk:
        whole = sdk.messages.create(**asked, extra_body={"temperature": 0})
        with sdk.messages.stream(**asked, extra_body={"temperature": 0}) as stream:
            streamed = stream.get_final_message()
        counted = sdk.messages.count_tokens(model="tiny", messages=asked["messages"])
    assert backend.made[0] == backend.made[1]
    assert whole.content[0].text == streamed.content[0].text
    assert whole.content[0].text == tiny_tokenizer().decode(backend.made[0], skip_special=True).lstrip("\n")
    assert whole.usage.output_tokens == len(backend.made[0])
    assert whole.usage.input_tokens == counted.input_tokens == len(backend.requests[0].prompt)


def test_responses():
    backend = Recording()
    asked = {"model": "tiny", "max_output_tokens": 12, "input": "print", "temperature": 0}
    with responses_client(build(backend)) as sdk:
        whole = sdk.responses.create(**asked, reasoning={"effort": "none"})
        with sdk.responses.stream(**asked, reasoning={"effort": "none"}) as stream:
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert backend.made[0] == backend.made[1]
    assert whole.output_text == "".join(deltas)
    assert whole.output_text == tiny_tokenizer().decode(backend.made[0], skip_special=True).lstrip("\n")
    assert whole.usage.output_tokens == len(backend.made[0])
