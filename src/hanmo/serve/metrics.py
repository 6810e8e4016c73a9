"""What the server counts, for Prometheus at /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hanmo.serve.models import Models

#: Upper ends of the classes of durations, seconds.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server.

    Args:
        models: what is served.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, models: Models) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "hanmo_requests", "Requests by endpoint and status.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "hanmo_request_seconds",
            "From a request to the end of its answer.",
            ["path"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._waited = Histogram(
            "hanmo_waited_seconds", "In line before an answer began.", ["model"], registry=registry, buckets=_SECONDS
        )
        self._first = Histogram(
            "hanmo_first_token_seconds",
            "From a request to the first piece of its answer.",
            ["model"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._tokens = Counter("hanmo_tokens", "Tokens read and written.", ["model", "kind"], registry=registry)
        registry.register(_Lines(models))
        ProcessCollector(registry=registry)

    def ended(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def answered(
        self, model: str, *, read: int, written: int = 0, waited: float | None = None, first: float | None = None
    ) -> None:
        """Count an answer: its tokens, and the seconds before it began and before its first piece."""
        self._tokens.labels(model, "prompt").inc(read)
        self._tokens.labels(model, "completion").inc(written)
        if waited is not None:
            self._waited.labels(model).observe(waited)
        if first is not None:
            self._first.labels(model).observe(first)

    def page(self) -> bytes:
        """All of them in Prometheus's text form."""
        return generate_latest(self._registry)


class _Lines(Collector):
    """What the models' workers say of themselves when they are asked."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        active = GaugeMetricFamily("hanmo_active", "Requests being answered.", labels=["model"])
        waiting = GaugeMetricFamily("hanmo_waiting", "Requests in line.", labels=["model"])
        loaded = GaugeMetricFamily("hanmo_loaded", "1: the model is in memory.", labels=["model"])
        ready = GaugeMetricFamily("hanmo_ready", "1: the model's engine can answer.", labels=["model"])
        restarts = CounterMetricFamily(
            "hanmo_engine_restarts", "Times an engine's process was started again.", labels=["model"]
        )
        loads = CounterMetricFamily("hanmo_model_loads", "Times a model was loaded.")
        loads.add_metric([], self._models.loads)
        unloads = CounterMetricFamily("hanmo_model_unloads", "Times a model was unloaded, for another's sake.")
        unloads.add_metric([], self._models.unloads)
        workers = self._models.workers
        for name in self._models.entries:
            worker = workers.get(name)
            loaded.add_metric([name], float(worker is not None))
            if worker is not None:
                active.add_metric([name], worker.active)
                waiting.add_metric([name], worker.waiting)
                ready.add_metric([name], float(worker.engine.ready))
                process = getattr(worker.engine, "process", None)
                if process is not None:
                    restarts.add_metric([name], process.restarts)
        yield from (active, waiting, loaded, ready, restarts, loads, unloads)
