"""Prometheus metrics, under the names that dashboards for language-model servers already know (`vllm:...`), and a few
of our own (`homegrown:...`) for what those have no name for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from homegrown.serve.backend import Backend
from homegrown.serve.http.admission import Admission
from homegrown.serve.http.exchange import Exchange
from homegrown.serve.http.metered import Answer, Listener

CONTENT_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # series that say when each other series began, and double their number

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)
_TOKENS = tuple(accumulate([1] + [4] * 10, lambda size, factor: size * factor))
_LABEL = ["model_name"]


class Metrics(Listener):
    """Counts and times everything.

    Args:
        model: label of everything that is about the model.
        backend: asked for its figures whenever metrics are read.
        admission: likewise.
    """

    def __init__(self, model: str, backend: Backend, admission: Admission) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(model, backend, admission))
        self._model = model
        self._prompt = self._counter("vllm:prompt_tokens", "Prompt tokens of answers that have begun.")
        self._generated = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._queries = self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        self._hits = self._counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self._drafted = self._counter("vllm:spec_decode_num_draft_tokens", "Tokens proposed by the draft head.")
        self._accepted = self._counter("vllm:spec_decode_num_accepted_tokens", "Proposed tokens that were taken.")
        self._success = Counter(
            "vllm:request_success", "Answers that ended.", [*_LABEL, "finished_reason"], registry=self._registry
        )
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", "From submission to the first token.")
        self._itl = self._histogram("vllm:inter_token_latency_seconds", "Between outputs of an answer, per token.")
        self._tpot = self._histogram(
            "vllm:request_time_per_output_token_seconds", "From the first token to the last, per token."
        )
        self._e2e = self._histogram("vllm:e2e_request_latency_seconds", "From submission to the last token.")
        self._queue = self._histogram("vllm:request_queue_time_seconds", "From arrival to the first pass.")
        self._prefill = self._histogram("vllm:request_prefill_time_seconds", "From the first pass to the first token.")
        self._decode = self._histogram("vllm:request_decode_time_seconds", "From the first token to the last.")
        self._sizes = self._histogram("vllm:request_prompt_tokens", "Prompt tokens of an answer.", _TOKENS)
        self._lengths = self._histogram("vllm:request_generation_tokens", "Tokens of an answer.", _TOKENS)
        self._http = Counter(
            "homegrown:http_requests", "Responses.", ["method", "path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "homegrown:http_request_seconds", "To a response's last byte.", ["path"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._gone = Counter(
            "homegrown:http_clients_gone", "Clients that left before the end.", registry=self._registry
        )

    def text(self) -> bytes:
        """Everything, in the text format that Prometheus reads."""
        return generate_latest(self._registry)

    def answered(self, exchange: Exchange, label: str) -> None:
        """A response is over; `label` is its route's."""
        self._http.labels(exchange.method, label, str(exchange.status)).inc()
        self._seconds.labels(label).observe(exchange.elapsed)
        if exchange.gone:
            self._gone.inc()

    def begun(self, answer: Answer) -> None:
        """Count the prompt."""
        if _awaited(answer):
            self._ttft.observe(answer.last - answer.began)
        self._prompt.inc(answer.usage.prompt_tokens)
        self._queries.inc(answer.usage.prompt_tokens)
        self._hits.inc(answer.usage.cached_tokens)

    def grown(self, answer: Answer, tokens: int, gap: float) -> None:
        """Time the tokens."""
        self._itl.observe(gap / tokens)

    def ended(self, answer: Answer) -> None:
        """Count and time the answer."""
        usage = answer.usage
        self._success.labels(self._model, answer.finish or "abort").inc()
        self._generated.inc(usage.completion_tokens)
        self._drafted.inc(usage.drafted)
        self._accepted.inc(usage.accepted)
        if answer.first is None or not _awaited(answer):
            return
        self._e2e.observe(answer.last - answer.began)
        self._queue.observe(usage.queue_s)
        self._prefill.observe(usage.prefill_s)
        self._decode.observe(usage.decode_s)
        self._sizes.observe(usage.prompt_tokens)
        self._lengths.observe(usage.completion_tokens)
        if usage.completion_tokens > 1:
            self._tpot.observe((answer.last - answer.first) / (usage.completion_tokens - 1))

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(name, what, _LABEL, registry=self._registry).labels(self._model)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, what, _LABEL, buckets=buckets, registry=self._registry).labels(self._model)


def _awaited(answer: Answer) -> bool:
    """Somebody waits for it. Lines of batches wait for everybody else, so how long they take says nothing."""
    return answer.exchange is None or answer.exchange.admitted


class _Engine:
    """The engine's own figures, at the moment they are asked for."""

    def __init__(self, model: str, backend: Backend, admission: Admission) -> None:
        self._model, self._backend, self._admission = model, backend, admission

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        stats, admission = self._backend.stats(), self._admission
        used = stats.pages_used / stats.pages if stats.pages else 0.0
        gauges = {
            "vllm:num_requests_running": (stats.running, "Requests in the engine's batch."),
            "vllm:num_requests_waiting": (stats.waiting, "Requests that wait for the engine."),
            "vllm:num_requests_swapped": (stats.swapped, "Requests whose keys were moved to host memory."),
            "vllm:kv_cache_usage_perc": (used, "Pages of the key cache in use; 1 is all."),
            "vllm:gpu_cache_usage_perc": (used, "The same, under its older name."),
            "homegrown:pages": (stats.pages, "Pages of the key cache."),
            "homegrown:pages_cached": (stats.pages_cached, "Pages kept for prompts to come."),
            "homegrown:host_pages_used": (stats.host_pages_used, "Pages in host memory."),
            "homegrown:waiting_tokens": (stats.waiting_tokens, "Prompt tokens that wait to be computed."),
            "homegrown:prefill_workers": (stats.helpers, "Engines that compute prompts and can be reached."),
            "homegrown:prefill_rate": (stats.prefill_rate, "Prompt tokens a second, lately."),
            "homegrown:step_seconds": (stats.step_s, "A typical step, lately."),
            "homegrown:ready": (
                self._backend.state == "ready" and not admission.draining,
                "Whether requests are taken.",
            ),
            "homegrown:admitted": (admission.running, "Requests that were let in and are not over."),
            "homegrown:predicted_wait_seconds": (
                admission.predicted_wait(),
                "Until a request that comes now has its turn.",
            ),
        }
        for name, (value, what) in gauges.items():
            gauge = GaugeMetricFamily(name, what, labels=_LABEL)
            gauge.add_metric([self._model], float(value))
            yield gauge
        for name, count, what in (
            ("vllm:num_preemptions", stats.preempted, "Times that a request had to make room."),
            ("homegrown:steps", stats.steps, "Steps of the engine."),
            ("homegrown:prefill_tokens", stats.prefill_tokens, "Prompt tokens computed."),
            ("homegrown:transferred_tokens", stats.transferred, "Prompt tokens whose keys came from prefill workers."),
            ("homegrown:lost_prompts", stats.lost, "Prompts of prefill workers that were computed where answers are."),
        ):
            counter = CounterMetricFamily(name, what, labels=_LABEL)
            counter.add_metric([self._model], count)
            yield counter
        refused = CounterMetricFamily("homegrown:refused", "Requests that were not let in.", labels=["reason"])
        for reason, count in admission.refused.items():
            refused.add_metric([reason], count)
        yield refused

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are not checked against each other beforehand."""
        return iter(())
