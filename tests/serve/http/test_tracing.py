"""OpenTelemetry: spans as a collector receives them, and a clear word where it is not installed."""

import gzip
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from homegrown.config import UserError
from homegrown.serve.http.tracing import tracer

from ..scripted import ScriptedBackend
from .live import CHAT, live


def test_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(UserError, match=r"OpenTelemetry is not installed: pip install 'homegrown-lm\[otel\]'"):
        tracer("http://localhost:1/v1/traces", "tiny")


def test_spans():
    pytest.importorskip("opentelemetry.sdk")
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with live(ScriptedBackend([77, 78]), otlp=f"http://127.0.0.1:{collector.server_port}/v1/traces") as server:
        server.ask("POST", "/v1/messages", CHAT, traceparent=f"00-{trace}-{parent}-01", x_session_id="s-1")
    collector.shutdown()
    data = received[0] if received[0][:2] != b"\x1f\x8b" else gzip.decompress(received[0])
    request = messages.ExportTraceServiceRequest.FromString(data)
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("POST /v1/messages", trace, parent)
    attributes = {item.key: item.value.string_value or item.value.int_value for item in span.attributes}
    assert attributes["http.response.status_code"] == 200
    assert attributes["gen_ai.usage.output_tokens"] == 2
    assert attributes["session.id"] == "s-1"
    assert span.end_time_unix_nano > span.start_time_unix_nano
