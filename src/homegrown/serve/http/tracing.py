"""OpenTelemetry, for those who want it: a span per request, in the caller's trace, with the answer's phases in it."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

from homegrown.config import UserError
from homegrown.serve.http.exchange import Exchange

Trace = Callable[[Exchange, Scope, str], None]
"""Called with a request that is over and its route's label."""


def tracer(endpoint: str, model: str) -> tuple[Trace, Callable[[], None]]:
    """Send spans to an OTLP endpoint over HTTP.

    Spans are made when a request is over, from what was measured anyway, and sent by a thread of the library, so that
    tracing costs a request nothing while it runs.

    Args:
        endpoint: such as http://localhost:4318/v1/traces.
        model: what the served model is called.

    Returns:
        The function that traces, and one that sends what is left and ends.

    Raises:
        UserError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.propagate import extract
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
    except ImportError:
        raise UserError(
            "traces were asked for (--otlp), but OpenTelemetry is not installed: pip install 'homegrown-lm[otel]'"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "homegrown"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    source = provider.get_tracer("homegrown.serve")

    def trace(exchange: Exchange, scope: Scope, label: str) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        begin = int(exchange.began * 1e9)
        end = begin + int(exchange.elapsed * 1e9)
        usage = exchange.usage
        attributes: dict[str, str | int] = {
            "http.request.method": exchange.method,
            "http.route": label,
            "http.response.status_code": exchange.status,
            "homegrown.request_id": exchange.id,
            "enduser.id": exchange.client.name,
        }
        if exchange.session:
            attributes["session.id"] = exchange.session
        if exchange.answers:
            attributes |= {
                "gen_ai.request.model": model,
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "gen_ai.response.finish_reasons": exchange.finish,
            }
        span = source.start_span(
            f"{exchange.method} {label}", extract(carrier), SpanKind.SERVER, attributes, start_time=begin
        )
        if exchange.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(span)
        at = begin
        for name, seconds in (("queue", usage.queue_s), ("prefill", usage.prefill_s), ("decode", usage.decode_s)):
            if seconds:
                phase = source.start_span(name, inside, start_time=at)
                at += int(seconds * 1e9)
                phase.end(at)
        span.end(end)

    return trace, provider.shutdown
