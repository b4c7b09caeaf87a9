"""Messages survive the way."""

import socket

import pytest

from homegrown.serve.engine.options import EngineOptions
from homegrown.serve.messages import Grammar, Output, Request, Sampling, Stats, TokenScore, Usage
from homegrown.serve.worker import protocol as say

REQUEST = Request(
    id="a", prompt=[1, 2**31], sampling=Sampling(max_tokens=3, logit_bias={5: -1.5}, grammar=Grammar(lark="start: /é/"))
)
OUTPUT = Output(
    id="a", tokens=[1], scores=[TokenScore(-0.5, ((1, -0.5), (2, -1.0)))], prompt_scores=[None, TokenScore(-1.0)],
    compute=[2.5], finish="stop", usage=Usage(prompt_tokens=2), error="",
)  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        say.Launch(directory="d", dtype="bfloat16", options=EngineOptions(pages=3)), say.Add(REQUEST), say.Abort("a"),
        say.Close(), say.Loading("x", 0.5), say.Ready(1.0, 40, 5, 8), say.Outputs([OUTPUT]),
        say.Figures(Stats(running=2)), say.Failed("why"),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
def test_there_and_back(message):
    framed = say.frame(message)
    body = framed[say.LENGTH.size :]
    assert say.LENGTH.unpack(framed[: say.LENGTH.size]) == (len(body),)
    decode = say.order if isinstance(message, say.Order) else say.report
    assert decode(body) == message


def test_orders_from_a_socket_in_any_pieces():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        big = say.Add(Request(id="b", prompt=list(range(5000)), sampling=Sampling(max_tokens=1)))
        sent = say.frame(say.Abort("a")) + say.frame(big)
        ours.sendall(sent[:3])
        ours.sendall(sent[3:7])
        ours.sendall(sent[7:])
        assert say.receive(theirs) == say.Abort("a")
        assert say.receive(theirs) == big
        ours.sendall(sent[:2])
        ours.close()
        assert say.receive(theirs) is None


def test_strangers():
    with pytest.raises(say.ProtocolError, match="not a message of this version"):
        say.order(b"\x93abc")
