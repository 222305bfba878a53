"""What the service tells of itself: metrics, traces, log lines, readiness; and of nobody's memories."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from memos.config import Settings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos_api.metrics import Metrics

MEMOS = Path(sys.executable).with_name("memos")
#: What a request is about; none of it may be told.
SECRETS = {"tenant": "tenant-okapi", "user_id": "user-quokka", "text": "The axolotl lives in Oslo"}
#: Every name that a label may have.
LABELS = {"method", "route", "status", "stage", "how", "tier", "pool", "what", "state", "le"}


@pytest.fixture
def open_engine(tmp_path: Path, embedder: Embedder) -> Callable[..., MemoryOS]:
    """Open an engine on an empty store."""
    return lambda **more: MemoryOS(Settings(home=tmp_path / "store", notes="off", **more), embedder)


@pytest.fixture
def service(open_engine: Callable[..., MemoryOS], serve: Callable[..., Any]) -> Iterator[Any]:
    """A service that nobody else asks."""
    with serve(open_engine) as running:
        yield running


def client_of(service: Any, **options: Any) -> httpx.Client:
    headers = {"Authorization": f"Bearer {service.key(SECRETS['tenant'])}"}
    return httpx.Client(base_url=service.url, headers=headers, timeout=30, **options)


def talk(client: httpx.Client) -> str:
    """Store, read, recall, and ask for what is not there; return the memory's id."""
    body = {"text": SECRETS["text"], "user_id": SECRETS["user_id"]}
    made: str = client.post("/v1/memories", json=body).json()["id"]
    client.post("/v1/memories", json=body)
    client.get(f"/v1/memories/{made}")
    client.get(f"/v1/memories/{made}/history")
    client.get(f"/v1/memories/{SECRETS['user_id']}")
    client.put(f"/v1/memories/{SECRETS['user_id']}")
    client.post("/v1/recall", json={"query": SECRETS["text"], "user_id": SECRETS["user_id"]})
    client.get(f"/{SECRETS['user_id']}")
    client.get(f"/v1/memories/{SECRETS['user_id']}/history%0A")
    return made


# ------------------------------------------------------------ metrics


def samples(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return what ``/metrics`` says, by name and labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def test_requests_are_counted_by_route(service: Any) -> None:
    with client_of(service) as client:
        talk(client)
        found = samples(client)
    counted = {
        (labels["method"], labels["route"], labels["status"]): value
        for (name, pairs), value in found.items()
        if name == "memos_requests_total"
        for labels in [dict(pairs)]
    }
    assert counted == {
        ("POST", "/v1/memories", "201"): 2,
        ("GET", "/v1/memories/{cube_id}", "200"): 1,
        ("GET", "/v1/memories/{cube_id}", "404"): 1,
        ("PUT", "/v1/memories/{cube_id}", "405"): 1,
        ("GET", "/v1/memories/{cube_id}/history", "200"): 1,
        ("GET", "/v1/memories/{cube_id}/history", "404"): 1,
        ("POST", "/v1/recall", "200"): 1,
        ("GET", "unknown", "404"): 1,
    }
    posts = frozenset({"method": "POST", "route": "/v1/memories"}.items())
    assert found["memos_request_seconds_count", posts] == 2
    assert found["memos_requests_in_flight", frozenset()] == 1  # this very one


def test_what_the_store_did_and_holds_is_counted(service: Any) -> None:
    with client_of(service) as client:
        talk(client)
        found = {name: value for (name, labels), value in samples(client).items() if not labels}
        every = samples(client).items()
        held = {dict(labels)["what"]: value for (name, labels), value in every if name == "memos_held"}
        what = {dict(labels)["what"]: value for (name, labels), value in every if name == "memos_prefetched_total"}
    assert what == dict.fromkeys(("hits", "misses", "bytes", "wasted_bytes"), 0)  # no chat has loaded a model
    assert found["memos_memories_stored_total"] == 2
    assert found["memos_memories_recalled_total"] == 1  # the same text twice is one hit
    assert (held["memories"], held["namespaces"]) == (2, 1)


def test_labels_name_nobody(service: Any) -> None:
    with client_of(service) as client:
        made = talk(client)
        text = client.get("/metrics").text
    assert not [secret for secret in (*SECRETS.values(), made, "quokka") if secret in text]
    families = text_string_to_metric_families(text)
    assert {label for family in families for sample in family.samples for label in sample.labels} <= LABELS


# ------------------------------------------------------------ the dashboard


def exported(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Return every name that a query may use, with its labels."""
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    metrics = [metric for metric in vars(Metrics()).values() if hasattr(metric, "describe")]
    kinds = {family.name: family.type for metric in metrics for family in metric.describe()}
    labels = {metric.describe()[0].name: set(metric._labelnames) for metric in metrics}
    return {
        name + suffix: labels[name] | ({"le"} if suffix == "_bucket" else set())
        for name, kind in kinds.items()
        for suffix in suffixes[kind]
    }


def test_dashboard_asks_for_what_there_is(repository: Path) -> None:
    known = exported(Metrics().registry)
    board = json.loads((repository / "deploy" / "grafana" / "agent-memos.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked = {name for query in queries for name in re.findall(r"memos_\w+", query)}
    assert asked <= known.keys()
    assert {re.sub("_(total|bucket)$", "", name) for name in asked} == {
        re.sub("_(total|bucket|count|sum)$", "", name) for name in known
    }, "a metric is on no panel"
    for query in queries:
        (name,) = re.findall(r"memos_\w+", query)
        used = set(re.findall(r"(\w+)[!=]~?\"", query)) | set(
            re.findall(r"\w+", " ".join(re.findall(r"by \((.*?)\)", query)))
        )
        assert used <= known[name] | {"instance"}, query


def test_dashboard_chooses_its_source(repository: Path) -> None:
    board = json.loads((repository / "deploy" / "grafana" / "agent-memos.json").read_text())
    assert {variable["name"]: variable["type"] for variable in board["templating"]["list"]} == {
        "datasource": "datasource",
        "instance": "query",
    }
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["description"] for panel in panels)


# ------------------------------------------------------------ traces


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Collecting)

    @property
    def url(self) -> str:
        """Where spans go."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    def spans(self) -> list[Any]:
        """Return the spans of all bodies."""
        exports = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        resources = [resource for export in exports for resource in export.resource_spans]
        return [span for resource in resources for scoped in resource.scope_spans for span in scoped.spans]


class _Collecting(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {
        one.key: one.value.int_value if one.value.HasField("int_value") else one.value.string_value
        for one in span.attributes
    }


def test_traces_are_there_once_the_service_ended(
    open_engine: Callable[..., MemoryOS], serve: Callable[..., Any], collector: Collector
) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with serve(open_engine, traces_url=collector.url) as service, client_of(service) as client:
        made = talk(client)
        client.get("/healthz", headers={"traceparent": f"00-{trace}-{parent}-01"})
    spans = collector.spans()
    assert [span.name for span in spans][:3] == ["POST /v1/memories"] * 2 + ["GET /v1/memories/{cube_id}"]
    assert attributes(spans[0]) == {
        "http.request.method": "POST",
        "http.route": "/v1/memories",
        "http.response.status_code": 201,
    }
    assert (spans[-1].name, spans[-1].trace_id.hex(), spans[-1].parent_span_id.hex()) == ("GET /healthz", trace, parent)
    sent = b"".join(collector.bodies)
    assert not [secret for secret in (*SECRETS.values(), made) if secret.encode() in sent]


def test_no_traces_unless_the_settings_say_so(
    open_engine: Callable[..., MemoryOS],
    serve: Callable[..., Any],
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Variables that OpenTelemetry reads by itself turn nothing on."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.removesuffix("/v1/traces"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url)
    with serve(open_engine) as service, client_of(service) as client:
        talk(client)
    assert collector.bodies == []


def test_collector_that_is_gone_hinders_nothing(
    open_engine: Callable[..., MemoryOS], serve: Callable[..., Any], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # how long the end waits for it; 10 s unless set
    with serve(open_engine, traces_url=f"http://127.0.0.1:{free_port}/v1/traces") as service:
        with client_of(service) as client:
            assert client.get("/readyz").status_code == 200
        ending = time.monotonic()
    assert time.monotonic() - ending < 8


# ------------------------------------------------------------ log lines


def test_log_is_lines_of_json(tmp_path: Path, free_port: int) -> None:
    """From the first line to the last, in a process of its own, whose standard error is a file."""
    log, url = tmp_path / "log", f"http://127.0.0.1:{free_port}"
    with log.open("wb") as output:
        command = [str(MEMOS), "serve", "--home", str(tmp_path / "store"), "--port", str(free_port)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            await_answer(process, url, log)
            answer = httpx.get(f"{url}/v1/memories/{SECRETS['user_id']}", headers={"X-Request-ID": "from-the-proxy"})
            other = httpx.post(f"{url}/v1/recall", json={"query": SECRETS["text"], "top_k": 0})
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert answer.headers["X-Request-ID"] == "from-the-proxy"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"event", "level", "timestamp", "logger"} <= line.keys() for line in lines)
    requests = {line["request_id"]: line for line in lines if line["event"] == "request"}
    line = requests["from-the-proxy"]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/memories/{cube_id}", 404)
    assert line["ms"] > 0
    assert requests[other.headers["X-Request-ID"]]["status"] == other.status_code == 422
    assert not [secret for secret in SECRETS.values() if secret in log.read_text()]


def await_answer(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz").is_success:
                return
        time.sleep(0.1)
    pytest.fail(log.read_text())


# ------------------------------------------------------------ readiness


def test_ready(service: Any) -> None:
    answer = httpx.get(f"{service.url}/readyz")
    checks = {"database": "ok", "vector_index": "ok"}
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "checks": checks})


def test_degraded_without_the_vector_index(
    open_engine: Callable[..., MemoryOS], serve: Callable[..., Any], free_port: int
) -> None:
    gone = f"http://127.0.0.1:{free_port}"
    with serve(lambda: open_engine(chroma_url=gone)) as service, client_of(service) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["checks"]["database"] == "ok"
        assert answer.json()["checks"]["vector_index"] != "ok"
        assert client.post("/v1/recall", json={"query": "x"}).json()["hits"] == []


def test_down_once_it_is_told_to_stop(service: Any) -> None:
    """A proxy that looks here sends nothing more, while requests under way end."""
    service.service.stopping.set()
    answer = httpx.get(f"{service.url}/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "down")
    assert httpx.get(f"{service.url}/healthz").status_code == 200
