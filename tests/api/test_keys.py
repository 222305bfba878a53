"""API keys: who gets in, as whom, for what, until when."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from memos.access import Access, Permission
from memos.cli.app import app
from memos.config import Settings
from memos.embedding.base import Embedder
from memos.engine import MemoryOS
from memos.errors import Forbidden, InvalidInput, NotFound, Unauthenticated

ALL = ["read", "write", "admin"]
Clients = Callable[..., httpx.Client]


@pytest.fixture
def access(engine: MemoryOS) -> Access:
    """The keys of an empty store."""
    return Access(engine.database)


def test_key_opens_its_tenant(access: Access) -> None:
    made = access.create("acme", ["read"])
    principal = access.admit(made.key, Permission.READ, local=False)
    assert (principal.tenant, principal.scopes, principal.key_id) == ("acme", frozenset({Permission.READ}), made.id)


def test_secret_is_nowhere(access: Access, data_folder: Path) -> None:
    secret = access.create("acme", ALL).key.split("_", 2)[2]
    files = [path.read_bytes() for path in data_folder.rglob("*") if path.is_file()]
    assert not any(secret.encode() in content for content in files)
    assert secret not in repr(access.list())


@pytest.mark.parametrize(
    "token", ["", "x", "memos", "memos_", "memos__", "memos_0_0", "memos_\ud800_x", "x" * 100_000, "memos_a_b_c"]
)
def test_nonsense_is_refused(access: Access, token: str) -> None:
    access.create("acme", ALL)
    with pytest.raises(Unauthenticated, match="unknown, revoked or past its end"):
        access.admit(token, Permission.READ, local=True)


def test_wrong_secret_of_a_known_key(access: Access) -> None:
    key = access.create("acme", ALL).key
    for wrong in (key[:-1], key + "x", key[:-1] + ("a" if key[-1] != "a" else "b")):
        with pytest.raises(Unauthenticated):
            access.admit(wrong, Permission.READ, local=True)


def test_scope_is_needed(access: Access) -> None:
    key = access.create("acme", ["read"]).key
    with pytest.raises(Forbidden, match="'write'"):
        access.admit(key, Permission.WRITE, local=True)


def test_end_is_kept(access: Access) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=150)
    key = access.create("acme", ALL, expires_at=soon).key
    access.admit(key, Permission.READ, local=False)
    time.sleep(0.2)
    with pytest.raises(Unauthenticated):
        access.admit(key, Permission.READ, local=False)


def test_revoked_and_rotated_end_at_once(access: Access) -> None:
    first = access.create("acme", ALL)
    second = access.rotate(first.id)
    assert second.id == first.id
    with pytest.raises(Unauthenticated):
        access.admit(first.key, Permission.READ, local=False)
    access.admit(second.key, Permission.READ, local=False)
    assert not access.revoke(first.id).active
    with pytest.raises(Unauthenticated):
        access.admit(second.key, Permission.READ, local=False)
    with pytest.raises(NotFound):
        access.rotate(first.id)


def test_keys_of_another_tenant_are_out_of_reach(access: Access) -> None:
    made = access.create("acme", ALL)
    for change in (access.rotate, access.revoke):
        with pytest.raises(NotFound):
            change(made.id, "other")
    assert access.list("other") == []
    access.admit(made.key, Permission.ADMIN, local=False)


@pytest.mark.parametrize("scopes", [[], ["all"], "read", None, [1], ["read", "root"]])
def test_bad_scopes(access: Access, scopes: Any) -> None:
    with pytest.raises(InvalidInput, match="scopes"):
        access.create("acme", scopes)


def test_end_in_the_past(access: Access) -> None:
    with pytest.raises(InvalidInput, match="past"):
        access.create("acme", ALL, expires_at="2020-01-01")


def test_open_to_this_machine_until_there_is_a_key(access: Access) -> None:
    assert access.admit(None, Permission.ADMIN, local=True).tenant == "default"
    with pytest.raises(Unauthenticated):
        access.admit(None, Permission.READ, local=False)
    made = access.create("acme", ALL)
    access.revoke(made.id)
    with pytest.raises(Unauthenticated, match="is needed"):
        access.admit(None, Permission.READ, local=True)


# ---------------------------------------------------------------- over HTTP


def test_routes_ask_for_a_key(running: Any) -> None:
    answer = httpx.get(f"{running.url}/v1/memories")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_every_route_needs_its_scope(running: Any, client_of: Clients) -> None:
    """A key without a scope gets 403 from each route, whatever else would be wrong with the request."""
    nobody = {"read": client_of(scopes=["read"]), "write": client_of(scopes=["write"])}
    for method, path in operations(running):
        reading = method == "GET" or path.endswith(("/recall", "/embeddings", "/verify"))
        wrong = nobody["write" if reading else "read"]
        answer = wrong.request(method, path.format(**dict.fromkeys(NAMES, UNKNOWN)), **request(method, path))
        assert answer.status_code == 403, (method, path, answer.text)


def test_key_life_over_http(client: httpx.Client, running: Any) -> None:
    made = client.post("/v1/keys", json={"scopes": ["read"], "name": "n"}).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.get(f"{running.url}/v1/stats", headers=bearer).status_code == 200
    assert httpx.get(f"{running.url}/v1/keys", headers=bearer).status_code == 403
    rotated = client.post(f"/v1/keys/{made['id']}/rotate").json()
    assert httpx.get(f"{running.url}/v1/stats", headers=bearer).status_code == 401
    bearer = {"Authorization": f"Bearer {rotated['key']}"}
    assert httpx.get(f"{running.url}/v1/stats", headers=bearer).status_code == 200
    client.delete(f"/v1/keys/{made['id']}")
    assert httpx.get(f"{running.url}/v1/stats", headers=bearer).status_code == 401
    listed = client.get("/v1/keys").json()["keys"]
    assert [one["active"] for one in listed] == [True, False]
    assert "key" not in listed[0]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
def test_open_service_knows_foreign_names(
    tmp_path: Path, embedder: Embedder, host: str, serve: Callable[..., Any]
) -> None:
    """DNS rebinding: a page in a browser of this machine comes under a name of its own."""
    with serve(lambda: MemoryOS(Settings(home=tmp_path), embedder)) as service:
        assert httpx.get(f"{service.url}/v1/stats").status_code == 200
        assert httpx.get(f"{service.url}/v1/stats", headers={"Host": host}).status_code == 401
        assert httpx.get(f"{service.url}/v1/stats", headers={"X-Forwarded-For": "10.0.0.9"}).status_code == 401


# ---------------------------------------------------------------- on the command line


def test_commands(data_folder: Path, engine: MemoryOS) -> None:
    """They work while another part of this process has the store open."""
    at = ["--home", str(data_folder), "--json"]
    run = CliRunner()
    made = run.invoke(app, ["keys", "create", "--tenant", "acme", "--scopes", "read, write", *at])
    assert made.exit_code == 0, made.output
    (key,) = Access(engine.database).list("acme")
    assert f'"key": "memos_{key.id}_' in made.stdout
    assert run.invoke(app, ["keys", "rotate", key.id, *at]).exit_code == 0
    assert run.invoke(app, ["keys", "revoke", key.id, *at]).exit_code == 0
    assert run.invoke(app, ["keys", "revoke", key.id, *at]).exit_code == 3
    assert '"active": false' in run.invoke(app, ["keys", "ls", *at]).stdout
    assert "acme" in run.invoke(app, ["keys", "ls", "--home", str(data_folder)]).stdout
    assert run.invoke(app, ["keys", "create", "--scopes", "root", *at]).exit_code == 2


def test_serve_refuses_to_be_open_to_others(data_folder: Path) -> None:
    found = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--home", str(data_folder)])
    assert found.exit_code == 2
    assert "memos keys create" in found.output


# ---------------------------------------------------------------- every operation of the document

UNKNOWN = "01900000-0000-7000-8000-000000000000"
NAMES = ("cube_id", "job_id", "move_id", "hold_id", "key_id")
BODIES: dict[str, Any] = {
    "/v1/memories": {"text": "x"},
    "/v1/memories/refine": {},
    "/v1/memories/{cube_id}": {"text": "x"},
    "/v1/memories/{cube_id}/rollback": {"version": 1},
    "/v1/recall": {"query": "x"},
    "/v1/adapters/fuse": {"ids": [UNKNOWN, UNKNOWN]},
    "/v1/bundles": {"ids": [UNKNOWN], "to": "activation"},
    "/v1/cubes/{cube_id}/promote": {"to": "activation"},
    "/v1/keys": {"scopes": ["read"]},
    "/v1/retention": {"days": 1},
    "/v1/receipts/verify": {"receipt": {}},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/embeddings": {"input": "x"},
}


def operations(running: Any) -> list[tuple[str, str]]:
    """Every method and path under ``/v1``."""
    paths = httpx.get(f"{running.url}/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, item in paths.items() if path.startswith("/v1") for method in item]


def request(method: str, path: str) -> dict[str, Any]:
    """What a request to an operation needs to be well formed."""
    if path.endswith("/import"):
        return {"content": b"{}", "headers": {"Content-Type": "application/octet-stream"}}
    return {"json": BODIES.get(path, {})} if method in ("POST", "PATCH", "PUT") else {}
