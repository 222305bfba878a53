"""Commands of the upper tiers: promote, demote, chat, kv."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from memos.activation.compose.names import AUTO, MODE_NAMES
from memos.cli import output
from memos.cli.command import WHOSE, command
from memos.cli.failures import FINDING, STORE
from memos.cli.keep import Identifier
from memos.cli.session import Session

if TYPE_CHECKING:
    from memos.activation.listing import KVFile
    from memos.config import Settings
    from memos.cube import MemCube
    from memos.llm.messages import ChatReply
    from memos.store.kv_settings import KVSettings

POLL_S = 0.05

Compose = Annotated[
    str | None,
    typer.Option(metavar="MODE", help=f"How KV files begin a prompt: {', '.join((AUTO, *MODE_NAMES))}."),
]
Ratio = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Share of their tokens to compute anew, from 0 to 1.")
]

kv = typer.Typer(name="kv", help="Look after the KV files of the activation tier.", no_args_is_help=True)


def promote(
    session: Session,
    cube_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Memories of one user, in any order.")],
    *,
    to: Annotated[str, typer.Option("--to", metavar="TIER", help="`activation` or `parametric`.")] = "activation",
    codec: Annotated[
        str | None, typer.Option(metavar="NAME", help="How the file is compressed; anything lossy is your choice.")
    ] = None,
) -> None:
    """Keep the KV cache of memories in a file, or train an adapter on them, so that a chat need not read them again."""
    with session.engine() as engine, session.progress("promoting") as progress:
        from memos.store.jobs import FINAL  # SQLAlchemy, which `memos --help` does without

        tenant = session.scope.tenant
        job = engine.promote(tenant, cube_ids, to=to, user_id=session.user, codec=codec)
        while job.state not in FINAL:
            time.sleep(POLL_S)
            job = engine.job(tenant, job.id)
            progress(round(100 * job.progress), 100)
        result = job.result or {}
        made = result.get("cube_ids", [result["cube_id"]]) if result else ()
        cubes = [engine.get(tenant, cube_id) for cube_id in made]
    session.show(job, lambda: Group(*_promotion(cubes, result.get("refused", ()), job.error)))
    if job.error:
        raise typer.Exit(STORE)


def demote(session: Session, cube_id: Identifier) -> None:
    """Delete a cube of a higher tier; the memories it was made from stay."""
    with session.engine() as engine:
        receipt = engine.demote(session.scope.tenant, cube_id, user_id=session.user)
    session.show(receipt, lambda: output.plain(f"demoted {cube_id}"))


def chat(
    session: Session,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask; - reads stdin.")],
    *,
    system: Annotated[str | None, typer.Option(help="Instructions for the model.")] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="How many memories at most.")] = 10,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.0,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Repeats what chance did.")] = None,
    reuse: Annotated[bool, typer.Option(help="Take KV files instead of computing.")] = True,
    compose: Compose = None,
    ratio: Ratio = None,
    retrieval: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:SHARE", help="Attend a share of a KV file alone: quest, blockmean, vq, as quest:0.25."
        ),
    ] = None,
) -> None:
    """Answer a question from memory with the local language model."""
    asked = sys.stdin.read().strip() if question == "-" else question
    messages = [{"role": "user", "content": asked}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    live = not session.json and session.out.is_terminal
    with session.engine() as engine:
        reply = engine.chat(
            session.scope,
            messages,
            top_k=top_k,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            reuse=reuse,
            compose=compose,
            ratio=ratio,
            retrieval=retrieval,
            on_text=(lambda text: session.out.print(output.plain(text), end="")) if live else None,
        )
    session.show(reply, lambda: _answered(reply, shown=live))


def kv_list(session: Session) -> None:
    """List a user's KV files."""
    with session.engine() as engine:
        files = engine.kv_files(session.scope)
    session.show(files, lambda: _files(files))


def kv_settings(
    session: Session,
    *,
    codec: Annotated[
        str | None, typer.Option(metavar="NAME", help="How new files are compressed, such as `snapkv:0.5+zipcache`.")
    ] = None,
    compose: Compose = None,
    ratio: Ratio = None,
    reset: Annotated[bool, typer.Option("--reset", help="Drop what was set before.")] = False,
) -> None:
    """Show how a user's KV files are made and put together where a request names nothing else, or set it."""
    given = {"codec": codec, "compose": compose, "ratio": ratio}
    named = {name: value for name, value in given.items() if value is not None}
    with session.engine() as engine:
        chosen = engine.kv_settings(session.scope)
        if named or reset:
            before = {} if reset else chosen.model_dump(exclude={"user_id"})
            chosen = engine.set_kv_settings(session.scope, **{**before, **named})
        process = engine.settings
    session.show(chosen, lambda: _chosen(chosen, process))


def kv_verify(session: Session) -> None:
    """Read every KV file of a user whole and check it; exit with 1 if one cannot be used."""
    with session.engine() as engine, session.progress("reading") as progress:
        files = engine.kv_verify(session.scope, progress)
    session.show(files, lambda: _files(files))
    if any(file.problem for file in files):
        raise typer.Exit(FINDING)


def kv_remove(
    session: Session,
    cube_ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Activation cubes.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All KV files of the user.")] = False,
) -> None:
    """Delete KV files; the memories stay."""
    if everything == bool(cube_ids):
        raise typer.BadParameter("name the ids of activation cubes, or --all")
    with session.engine() as engine:
        chosen = cube_ids or [file.cube_id for file in engine.kv_files(session.scope)]
        receipts = [engine.demote(session.scope.tenant, cube_id, user_id=session.user) for cube_id in chosen]
    session.show(receipts, lambda: Text(f"removed {len(receipts)} KV files"))


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, whose=("user",))(promote)
    command(app, whose=("user",))(demote)
    command(app, whose=WHOSE)(chat)
    command(kv, name="ls", whose=("user",))(kv_list)
    command(kv, name="settings", whose=("user",))(kv_settings)
    command(kv, name="verify", whose=("user",))(kv_verify)
    command(kv, name="rm", whose=("user",))(kv_remove)
    app.add_typer(kv)


def _promotion(cubes: Sequence[MemCube], refused: Sequence[str], error: str | None) -> Iterator[RenderableType]:
    yield from map(_promoted, cubes)
    for cube_id in refused:
        yield output.plain(f"refused by its gate: memos adapters show {cube_id}")
    if error:
        yield output.plain(f"not promoted: {error}")


def _promoted(cube: MemCube) -> RenderableType:
    size = output.megabytes(cube.metadata["bytes"])
    if cube.kind == "parametric":
        return output.plain(f"made {cube.id}: {cube.metadata['payload']} in {size}, {cube.metadata['state']}")
    raw, loss = output.megabytes(cube.metadata["raw_bytes"]), cube.metadata["loss"] or 0.0
    what = f"{cube.metadata['tokens']} tokens in {size} of {raw}, codec {cube.metadata['codec']}"
    return output.plain(f"made {cube.id}: {what}, {_loss(loss)} nats per token lost")


def _answered(reply: ChatReply, *, shown: bool) -> RenderableType:
    usage = reply.usage
    first = usage.milliseconds.get("first_token", 0.0)
    facts = [
        f"first token after {first:.0f} ms",
        f"{usage.tokens_reused} tokens reused, {usage.tokens_recomputed} computed",
        f"{usage.completion_tokens} written",
        *([f"{len(usage.bundles)} KV files by {usage.mode}"] if len(usage.bundles) > 1 else ()),
        *([f"{usage.attended:.0%} of the KV file attended by {usage.retrieval}"] if usage.retrieval else ()),
        *(f"KV file of {miss.cube_id} could not be used: {miss.reason}" for miss in reply.misses),
    ]
    return Group(Text("") if shown else output.plain(reply.text), Text(", ".join(facts), style="dim"))


def _files(files: Sequence[KVFile]) -> RenderableType:
    columns = ("cube, codec", "tokens", "MB", "loss", "notes", "hits")  # a codec's name may be as long as an id
    made = output.table(*columns, narrow=columns[1:])
    for file in files:
        what = output.plain("\n".join([file.cube_id, file.codec, *([file.problem] if file.problem else [])]))
        size = f"{file.bytes / 1e6:,.1f} of {file.raw_bytes / 1e6:,.1f}"
        made.add_row(what, str(file.tokens), size, _loss(file.loss), str(file.memories), str(file.hits))
    total = output.megabytes(sum(file.bytes for file in files))
    raw = output.megabytes(sum(file.raw_bytes for file in files))
    return Group(made, Text(f"{len(files)} files, {total} of {raw}; loss in nats per token", style="dim"))


def _loss(nats: float) -> str:
    """Return a loss in nats per token; 0 stands for none at all."""
    return f"{nats:.4f}" if nats else "0"


def _chosen(chosen: KVSettings, process: Settings) -> RenderableType:
    """Return what a user chose, and what holds where nothing was."""
    return output.pairs(
        {
            "codec": chosen.codec or f"{process.kv_codec} (MEMOS_KV_CODEC)",
            "compose": chosen.compose or f"{process.compose} (MEMOS_COMPOSE)",
            "ratio": "what costs least" if chosen.ratio is None else f"{chosen.ratio:g}",
        }
    )
