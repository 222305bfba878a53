"""Commands about API keys: keys create, ls, rotate, revoke. They take effect at once, beside a running service too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table

from memos.cli import output
from memos.cli.command import command
from memos.cli.session import Session

if TYPE_CHECKING:
    from memos.access import Access, ApiKey, NewKey

keys = typer.Typer(name="keys", help="Look after the API keys of the service.", no_args_is_help=True)

Key = Annotated[str, typer.Argument(metavar="ID", help="The key's id, the part between the underscores.")]
Tenant = Annotated[str, typer.Option(help="Whose memories the key opens.")]


def keys_create(
    session: Session,
    *,
    tenant: Tenant = "default",
    scopes: Annotated[str, typer.Option(help="What it allows: read, write, admin, parted by commas.")] = "read,write",
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends, ISO 8601.")] = None,
) -> None:
    """Make an API key and print it, once."""
    wanted = [scope.strip() for scope in scopes.split(",")]
    with _access(session) as access:
        made = access.create(tenant, wanted, name=name, expires_at=expires)
    session.show(made, lambda: _told(made))


def keys_list(
    session: Session,
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's; default: all.")] = None,
) -> None:
    """List keys, without their secrets."""
    with _access(session) as access:
        found = access.list(tenant)
    session.show(found, lambda: _listed(found))


def keys_rotate(session: Session, key_id: Key) -> None:
    """Give a key another secret and print it, once; the old one ends at once."""
    with _access(session) as access:
        made = access.rotate(key_id)
    session.show(made, lambda: _told(made))


def keys_revoke(session: Session, key_id: Key) -> None:
    """End a key at once."""
    with _access(session) as access:
        ended = access.revoke(key_id)
    session.show(ended, lambda: output.plain(f"revoked {ended.id} of {ended.tenant}"))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for function, name in (
        (keys_create, "create"),
        (keys_list, "ls"),
        (keys_rotate, "rotate"),
        (keys_revoke, "revoke"),
    ):
        command(keys, name=name)(function)
    app.add_typer(keys)


@contextmanager
def _access(session: Session) -> Iterator[Access]:
    """Open the keys alone: not the store, which a running service may hold."""
    from memos.access import Access
    from memos.store.database import Database
    from memos.store.location import database_url

    settings = session.settings()
    if settings.database_url is None:
        settings.home.expanduser().mkdir(parents=True, exist_ok=True)
    database = Database(database_url(settings))
    try:
        yield Access(database)
    finally:
        database.close()


def _told(made: NewKey) -> RenderableType:
    return Group(output.plain(made.key), output.plain(f"for tenant {made.tenant}; it is not shown again"))


def _listed(found: Sequence[ApiKey]) -> RenderableType:
    table = Table("id", "tenant", "name", "scopes", "made", "ends", box=None)
    for key in found:
        ends = "ended" if not key.active else output.when(key.expires_at) if key.expires_at else "never"
        table.add_row(key.id, key.tenant, key.name or "", ",".join(key.scopes), output.when(key.created_at), ends)
    return table
