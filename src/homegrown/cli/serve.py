"""`homegrown serve`: OpenAI- and Anthropic-compatible APIs, and a chat page, for a model."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from homegrown.cli.common import parse
from homegrown.config import UsageError

if TYPE_CHECKING:  # what serves is imported once the arguments are known to be right: help and mistakes come at once
    from homegrown.serve.http.clients import Keys
    from homegrown.serve.http.options import Options
    from homegrown.serve.worker.protocol import Launch

SUMMARY = "serve a model over the OpenAI and Anthropic APIs, with a chat page"

KEY = "HOMEGROWN_API_KEY"
SECRET = "HOMEGROWN_SECRET"

_FILE = tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")
_FOLDER = tyro.conf.arg(metavar="DIR", help_behavior_hint="(optional)")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where it listens."""

    host: str = "127.0.0.1"
    """Address to listen at. One that other machines can reach needs keys, or --open."""
    port: int = 8000
    """Port to listen at; 0 takes any free one."""
    tls_cert: Annotated[Path | None, _FILE] = None
    """Speak TLS with this certificate (PEM, chain included)."""
    tls_key: Annotated[Path | None, _FILE] = None
    """Its key, unless that is in the same file."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """What clients see of the model."""

    model_id: str = ""
    """What clients call the model; after its directory by default."""
    alias: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME")] = ()
    """Another name that clients may use; may be given several times. `anthropic/MODEL_ID` by default, since some agents
    list only names that begin so."""
    max_model_len: int = 0
    """Tokens of prompt and answer together; by default what the model was made for, or what the key cache holds."""
    max_output: int = 0
    """Tokens of an answer at most, and where a client sets no bound; by default as many as fit."""
    thinking: Literal["on", "off"] = "on"
    """Whether the model reasons where a client does not say."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How the model runs."""

    device: str = "auto"
    """`auto` takes the accelerator PyTorch finds, else the CPU."""
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    """Of the weights and the key cache in memory; the router is never narrowed."""
    weights: Literal["stored", "int8"] = "stored"
    """`int8` rounds large matrices to eight bits as they are read: half the memory of 16 bits, and quicker answers
    where memory is what takes the time. All else is --dtype, bfloat16 if that is `stored`. What changes is printed."""
    weights_check: Annotated[str, tyro.conf.arg(metavar="auto|off|FILE")] = "auto"
    """With --weights int8: compare perplexities of the stored and the rounded weights, on this file or folder of text;
    `auto` takes the standard library's sources, for models below 1 GB. It means reading the stored weights first."""
    threads: int = 0
    """CPU threads; 0 takes every core this process may use."""
    pages_memory: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "1GB"
    """Memory of the key cache: how many tokens can be in the works at once, and be remembered between requests."""
    page_size: int = 32
    """Tokens in a page of it. Whole pages are shared between prompts that begin alike."""
    host_pages: int = 0
    """Pages of host memory, to which requests move that must make room; 0: they are computed again instead."""
    max_running: int = 64
    """Requests that run at once; others wait."""
    chunk: int = 512
    """Prompt tokens computed in one pass."""
    step_ms: float = 100.0
    """A step takes about this long at most while answers are being written, so that a long prompt stops nobody."""
    speculate: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: if the model has a draft head)")] = True
    """Let the model's draft head propose tokens that are then checked several at a time. Answers stay the same (greedy)
    or equally distributed (sampled)."""
    invariant: bool = False
    """A request's tokens do not depend, bit for bit, on what else runs. Slower."""
    prefix_cache: bool = True
    """Keep what was computed of prompts for later ones that begin alike."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """How many processes, each with an accelerator if there are such, share the work. The key cache is whole in each of
    them, its memory too."""

    tp: int = 1
    """Processes that attention heads, dense widths and the vocabulary are spread over."""
    ep: int = 1
    """Processes that experts are spread over; these are the same ones, and more if --ep is above --tp."""
    prefill_workers: int = 0
    """Compute prompts apart from answers, by so many further engines of --tp and --ep processes each, so that no prompt
    slows answers down. Keys travel to the engine that answers while later layers are being computed. Without any of
    these engines, after a failure, prompts are computed where answers are, until they are back."""
    prefill_short: int = 0
    """With these, compute prompts where answers are if at most so many of their tokens are not known yet."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may come. Reasoning that clients hand back is signed: replicas that serve the same clients need the same
    secret in the environment, as HOMEGROWN_SECRET (16 characters or more)."""

    api_key: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY")] = ()
    """Take this key; may be given several times. Other users of this machine can see it here; better put it into the
    environment as HOMEGROWN_API_KEY (several with commas between them)."""
    keys: Annotated[Path | None, _FILE] = None
    """Take the keys of this TOML file, each with its limits; `homegrown serve key NAME` makes an entry."""
    open: bool = False
    """Take everybody, from wherever."""
    cors: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="ORIGIN")] = ()
    """Web pages of this origin, such as https://chat.example.org, may ask from a browser; `*` is every page. May be
    given several times. The server's own page always may."""
    open_metrics: bool = False
    """/metrics and /v1/load ask for no key."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is taken on."""

    max_waiting: int = 256
    """Requests that may wait for their first token; more are refused with 429 (529) and a time to try again. 0 sets
    no bound."""
    max_ttft: float = 60.0
    """Refuse requests whose turn would come later than in so many seconds, going by what waits already. 0 sets no
    bound."""
    max_body: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "32MB"
    """Size of a request."""
    drain_s: float = 30.0
    """Seconds for running requests to end after SIGTERM or Ctrl-C; a second signal ends at once."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """What is written down."""

    state: Annotated[Path | None, _FOLDER] = None
    """Directory for usage records (SQLite), uploaded files and batches. Without it there are none of these."""
    log: Literal["json", "text", "off"] = "text"
    """Form of the log on stderr."""
    log_prompts: bool = False
    """Log what clients send. It may be private; without this no text of a request is ever logged."""
    otlp: Annotated[str, tyro.conf.arg(metavar="URL")] = ""
    """Send OpenTelemetry traces here, such as http://localhost:4318/v1/traces. Needs homegrown-lm[otel]."""
    replica: str = ""
    """This server's name in the header x-replica; its host name by default."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a model over the OpenAI API (/v1/chat/completions, /v1/completions, /v1/responses, /v1/models, /v1/files,
    /v1/batches) and the Anthropic API (/v1/messages), with a chat page at / and metrics at /metrics.

    homegrown serve runs/quickstart/export

    homegrown serve DIR --host 0.0.0.0 --keys keys.toml --state /var/lib/homegrown

    homegrown serve DIR --tp 8 --ep 8 --prefill-workers 1

    homegrown serve key NAME          make a key and print its entry for --keys

    homegrown serve usage STATE       what each key has used
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Directory with config.json, safetensors files and a tokenizer, in any published layout of the LongCat family."""
    address: Address = field(default_factory=Address)
    naming: Naming = field(default_factory=Naming)
    engine: Engine = field(default_factory=Engine)
    processes: Processes = field(default_factory=Processes)
    access: Access = field(default_factory=Access)
    load: Load = field(default_factory=Load)
    records: Records = field(default_factory=Records)


def run(argv: list[str]) -> int:
    """Serve until told to end; or make a key, or show usage."""
    if argv[:1] == ["key"] or argv[:1] == ["usage"]:
        from homegrown.cli.serving import key, usage

        return key(argv[1:]) if argv[0] == "key" else usage(argv[1:])
    args = parse(tyro.conf.OmitArgPrefixes[Serve], argv, "serve")
    from homegrown.cli.serving import serve

    processes_of(args)
    if int(os.environ.get("RANK", "0")):
        from homegrown.serve.spread.replica import stand_by

        return stand_by(launch_of(args))
    keys = keys_of(args)
    return asyncio.run(serve(args, keys))


def keys_of(args: Serve) -> Keys:
    """The keys that were named, in whatever way.

    Raises:
        UsageError: there are none, and other machines could come in.
        UserError: the file of keys is not as it should be.
    """
    from homegrown.serve.http.clients import Keys, plain_keys, read_keys
    from homegrown.serve.http.server import is_loopback

    given = [key for key in os.environ.get(KEY, "").split(",") if key]
    clients = plain_keys([*args.access.api_key, *given])
    if args.access.keys is not None:
        clients |= read_keys(args.access.keys)
    if not clients and not args.access.open and not is_loopback(args.address.host):
        raise UsageError(
            f"--host {args.address.host}: other machines can reach this, and there are no keys; name some by --keys or "
            f"{KEY}, or say --open if everybody may come"
        )
    return Keys(clients)


def processes_of(args: Serve) -> Processes:
    """The processes.

    Raises:
        UsageError: their numbers cannot be.
    """
    processes = args.processes
    for name, least in (("tp", 1), ("ep", 1), ("prefill_workers", 0), ("prefill_short", 0)):
        if getattr(processes, name) < least:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} {getattr(processes, name)}: must be at least {least}")
    if processes.prefill_workers and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"--prefill-workers {processes.prefill_workers}: these are processes of one host; they cannot be had under "
            "a launcher of several hosts (WORLD_SIZE is set)"
        )
    return processes


def secret() -> str:
    """The secret of several replicas; empty without one.

    Raises:
        UsageError: it is too short to be one.
    """
    found = os.environ.get(SECRET, "")
    if found and len(found.encode()) < 16:
        raise UsageError(f"{SECRET} in the environment is shorter than 16 characters; make it longer, or unset it")
    return found


def launch_of(args: Serve) -> Launch:
    """What the engine's process is told.

    Raises:
        UsageError: flags that do not go together.
    """
    from homegrown.hub import parse_size
    from homegrown.serve.engine.options import EngineOptions
    from homegrown.serve.worker.protocol import Launch

    engine = args.engine
    if engine.weights_check != "auto" and engine.weights != "int8":
        raise UsageError("--weights-check is about rounded weights: add --weights int8")
    options = EngineOptions(
        page_size=engine.page_size, memory=parse_size(engine.pages_memory), host_pages=engine.host_pages,
        max_running=engine.max_running, chunk=engine.chunk, step_ms=engine.step_ms,
        speculate=-1 if engine.speculate else 0, invariant=engine.invariant, prefix_cache=engine.prefix_cache,
    )  # fmt: skip
    return Launch(
        directory=str(args.model), device=engine.device, dtype=engine.dtype, weights=engine.weights,
        weights_check=engine.weights_check, threads=engine.threads, options=options,
        tp=args.processes.tp, ep=args.processes.ep,
    )  # fmt: skip


def options_of(args: Serve, model: str, keys: bool) -> Options:
    """What the HTTP side is told."""
    from homegrown.hub import parse_size
    from homegrown.serve.http.options import Options

    load, records, state = args.load, args.records, args.records.state
    return Options(
        model=model, max_body=parse_size(load.max_body), max_waiting=load.max_waiting, max_ttft=load.max_ttft,
        drain_s=load.drain_s, log=records.log, log_prompts=records.log_prompts, open_metrics=args.access.open_metrics,
        usage=state / "usage.db" if state else None, files=state, otlp=records.otlp,
        secret=secret(), replica=records.replica, origins=args.access.cors,
        local=not keys and not args.access.open,
    )  # fmt: skip
