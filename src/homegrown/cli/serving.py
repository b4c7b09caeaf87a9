"""What `homegrown serve` does once its arguments are understood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from homegrown.cli.common import console, parse

if TYPE_CHECKING:
    from homegrown.cli.serve import Processes, Serve
    from homegrown.serve.card import ModelCard
    from homegrown.serve.http.clients import Keys
    from homegrown.serve.http.model import Model, Naming
    from homegrown.serve.spread.pair import PairBackend
    from homegrown.serve.worker.process import ProcessBackend
    from homegrown.serve.worker.protocol import Launch, Loading, Ready


@dataclass(frozen=True)
class NewKey:
    """Make an API key: it goes to stdout once, as an entry for the file of `homegrown serve --keys`, which has only its
    digest, and a comment with the key itself for whoever will use it."""

    name: Annotated[str, tyro.conf.Positional]
    """The key's name, in logs, usage records and metrics."""


@dataclass(frozen=True)
class ShowUsage:
    """Show what each key used of each model, day by day (UTC), from the records of `homegrown serve --state`."""

    state: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STATE")]
    """The directory of --state. The server may be running."""
    name: str = ""
    """Only this key."""
    since: str = ""
    """Only from this day on, as YYYY-MM-DD."""


async def serve(args: Serve, keys: Keys) -> int:
    """Serve until told to end.

    Raises:
        UserError: something is not as it should be: the directory, a flag, the port, the engine's start.
    """
    from homegrown.cli.serve import launch_of, options_of
    from homegrown.serve.http.app import build_app
    from homegrown.serve.http.logs import set_up
    from homegrown.serve.http.metered import MeteredBackend
    from homegrown.serve.http.model import capacity, card, describe, sampling
    from homegrown.serve.http.server import allow_connections, bind, make_server
    from homegrown.serve.service import Service

    address, launch = args.address, launch_of(args)
    sock = bind(address.host, address.port)
    model = describe(args.model, args.engine.dtype, args.engine.weights)
    shown = card(model, _naming(args), capacity(model, launch.options))
    set_up(args.records.log)
    allow_connections()
    backend = backend_of(args.processes, launch)
    defaults = sampling(model.generation, shown.max_output)
    service = Service(MeteredBackend(backend), model.tokenizer, model.config, shown, defaults)
    front = build_app(service, options_of(args, shown.id, bool(keys)), keys)
    scheme, port = "https" if address.tls_cert else "http", sock.getsockname()[1]
    url = f"{scheme}://{f'[{address.host}]' if ':' in address.host else address.host}:{port}"

    def ready() -> None:
        console.print(table(args, model, shown, backend.ready, url, len(keys)))
        _say(example(url, shown.id, bool(keys)))

    front.on_ready = ready
    server = make_server(front, tls_cert=address.tls_cert, tls_key=address.tls_key)
    await server.run_until_told(sock)
    return 0


def backend_of(processes: Processes, launch: Launch) -> ProcessBackend | PairBackend:
    """What runs the model: one engine, or one that answers and several that compute prompts; on accelerators side by
    side, if the device is left open."""
    from homegrown.serve.spread.pair import PairBackend
    from homegrown.serve.worker.process import ProcessBackend
    from homegrown.serve.worker.protocol import world_size

    def progress(loading: Loading) -> None:
        _say(f"{loading.seconds:6.1f} s  {loading.stage}")

    if not processes.prefill_workers:
        return ProcessBackend(launch, progress)
    each = world_size(launch.tp, launch.ep)
    others = [replace(launch, first=each * (number + 1)) for number in range(processes.prefill_workers)]
    return PairBackend(launch, others, progress, own=processes.prefill_short)


def table(args: Serve, model: Model, card: ModelCard, ready: Ready | None, url: str, keys: int) -> Table:
    """What was chosen."""
    engine = args.engine
    kind = str(model.dtype).removeprefix("torch.")
    steps = model.config.mtp.steps if model.config.mtp.layers and engine.speculate else 0
    rows = {
        "model": f"{', '.join(card.ids)} ({model.folder})",
        "weights": f"int8, all else {kind}" if engine.weights == "int8" else kind,
        "context": f"{card.context_length:,} tokens, of them at most {card.max_output:,} of an answer",
        "key cache": f"{ready.pages:,} pages of {ready.page_size} tokens" if ready else "",
        "processes": processes(args.processes),
        "speculation": f"{steps} tokens at a time" if steps else "off",
        "invariant": "on" if engine.invariant else "off",
        "thinking": args.naming.thinking,
        "keys": str(keys) if keys else "none: everybody who can reach it may come",
        "records": str(args.records.state or "none (--state DIR keeps usage, files and batches)"),
        "url": url,
    }
    shown = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        shown.add_row(f"[dim]{name}[/dim]", escape(value))
    return shown


def processes(chosen: Processes) -> str:
    """In words."""
    from homegrown.serve.worker.protocol import world_size

    each = world_size(chosen.tp, chosen.ep)
    said = f"{each}, tp {chosen.tp}, ep {chosen.ep}" if each > 1 else "1"
    return f"{said}, for answers; {chosen.prefill_workers} x as many for prompts" if chosen.prefill_workers else said


def _naming(args: Serve) -> Naming:
    from homegrown.serve.http.model import Naming

    given = args.naming
    return Naming(
        id=given.model_id, aliases=given.alias, longest=given.max_model_len, longest_answer=given.max_output,
        thinking=given.thinking == "on",
    )  # fmt: skip


def example(url: str, model: str, key: bool) -> str:
    """A first request."""
    header = " -H 'Authorization: Bearer KEY'" if key else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 100}}'
    return f"\ncurl {url}/v1/chat/completions{header} -H 'Content-Type: application/json' -d '{body}'\n"


def key(argv: list[str]) -> int:
    """Make a key."""
    from homegrown.serve.http.clients import entry, new_key

    name, made = parse(NewKey, argv, "serve key").name, new_key()
    print(f"# the key of {name!r}, which is kept nowhere else: {made}\n{entry(name, made)}", end="")
    return 0


def usage(argv: list[str]) -> int:
    """Show usage."""
    from homegrown.serve.http.usage import read_days

    args = parse(ShowUsage, argv, "serve usage")
    shown = Table("day", "key", "model", box=None, pad_edge=False)
    for column in ("answers", "prompt", "of it cached", "completion"):
        shown.add_column(column, justify="right")
    for day in read_days(args.state / "usage.db", name=args.name, since=args.since):
        numbers = (day.answers, day.prompt, day.cached, day.completion)
        shown.add_row(day.day, escape(day.name), escape(day.model), *(f"{number:,}" for number in numbers))
    Console().print(shown)  # the answer, not progress: it goes to stdout
    return 0


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
