"""What memory calls return. Times are aware UTC datetimes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Immutable; fields a newer server adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Scope(Model):
    """Whose memory it is."""

    tenant: str
    user_id: str
    agent_id: str | None = None
    run_id: str | None = None


class Descriptor(Model):
    """What it is about."""

    title: str | None = None
    keywords: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    context: str | None = None
    language: str | None = None
    entities: tuple[str, ...] = ()
    importance: float | None = None


class Times(Model):
    """When it was stored, when it happened, how long it holds."""

    created_at: datetime
    updated_at: datetime
    event_time: datetime | None = None
    valid_from: datetime
    valid_to: datetime | None = None
    expires_at: datetime | None = None


class Parent(Model):
    """One exact version something was derived from."""

    cube_id: str
    version: int


class Provenance(Model):
    """Where it came from.

    ``scribe`` wrote the note: ``offline`` or a model's name. ``remark`` says why a model's answer could not be used, or
    what a memory put aside repeats. ``parents`` of a note are the near-duplicates it stands for.
    """

    source: str
    author: str | None = None
    infer: bool
    scribe: str | None = None
    remark: str | None = None
    parents: tuple[Parent, ...] = ()


class Governance(Model):
    """Who may see it, and whether schedulers may touch it."""

    sensitivity: str
    pinned: bool
    frozen: bool
    acl: tuple[str, ...] = ()


class Behaviour(Model):
    """How it has been used."""

    recall_count: int
    last_recalled_at: datetime | None = None
    heat: float


class MemCube(Model):
    """A memory. ``kind`` is its tier: plaintext, activation or parametric."""

    id: str
    scope: Scope
    kind: str
    state: str
    version: int
    digest: str
    text: str | None = None
    metadata: dict[str, Any]
    descriptor: Descriptor
    time: Times
    provenance: Provenance
    governance: Governance
    behaviour: Behaviour


class CubeVersion(Model):
    """One entry of a memory's history.

    ``changes`` are the attributes that evolution changed with this version, as ``{name: [before, after]}``.
    """

    cube_id: str
    version: int
    text: str
    metadata: dict[str, Any]
    digest: str
    descriptor: Descriptor = Descriptor()
    author: str | None = None
    reason: str | None = None
    changes: dict[str, Any] | None = None
    created_at: datetime
    valid_from: datetime


class Link(Model):
    """A typed edge between two memories, seen from ``source_id``; both ends have it.

    ``type`` is ``contradicts``, ``refines``, ``causal``, ``temporal``, ``entity``, ``semantic`` or ``same_session``.
    ``reversed`` means that the target says it of the source. ``author`` is ``offline`` or a model's name.
    """

    source_id: str
    target_id: str
    type: str
    score: float
    author: str
    source_version: int = 1
    target_version: int = 1
    reversed: bool = False
    created_at: datetime


class Hit(Model):
    """One recalled memory. ``why`` is there under ``explain=True``."""

    id: str
    text: str
    score: float
    version: int
    metadata: dict[str, Any]
    links: tuple[Link, ...] = ()
    agent_id: str | None = None
    run_id: str | None = None
    event_time: datetime
    why: dict[str, Any] | None = None


class RecallResult(Model):
    """Hits best first, and the same as a dated text block for a prompt. ``timings`` are milliseconds by stage."""

    hits: tuple[Hit, ...]
    context: str
    timings: dict[str, float] = {}


class ExportRecord(Model):
    """A file that was handed out, and that no deletion can reach.

    ``kind`` is ``memories`` or ``adapter``. ``path_digest`` is the hex SHA-256 of its absolute path, where it was
    written for whoever asked; ``digest`` that of its bytes, where it is one file.
    """

    id: str
    kind: str
    memories: int
    path_digest: str | None = None
    digest: str | None = None
    created_at: datetime


class DeletionReceipt(Model):
    """What a deletion removed, signed.

    ``cube_ids`` are the memories, ``derived`` the cubes that were made from them, ``digests`` keyed ones of what the
    memories said. ``removed`` counts by place, ``files`` names KV files and adapters. ``pending`` names places that
    will be emptied once they can be reached, ``lingering`` those that keep unreachable bytes until they are rewritten,
    ``exports`` the files in somebody's hands that hold one of the memories. Hand it to ``Memory.verify_receipt`` later.
    """

    version: int
    id: str
    tenant: str
    user_id: str
    cube_ids: tuple[str, ...]
    derived: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    removed: dict[str, int]
    files: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    lingering: tuple[str, ...] = ()
    exports: tuple[ExportRecord, ...] = ()
    deleted_at: datetime
    key: str = ""
    signature: str = ""


class Check(Model):
    """One thing that was looked at: how many ids, digests, files were, and what came of it."""

    name: str
    passed: bool
    checked: int
    finding: str


class ReceiptCheck(Model):
    """Whether a receipt is genuine and what it says is still so: ``valid`` if every check passed."""

    receipt_id: str
    valid: bool
    checks: tuple[Check, ...]


class Hold(Model):
    """A legal hold on a memory, or on all memories of a user where ``cube_id`` is None."""

    id: str
    user_id: str
    cube_id: str | None = None
    reason: str | None = None
    created_at: datetime


class Retention(Model):
    """How many days memories of a user are kept after they were stored; None is for good."""

    user_id: str
    days: int | None = None


class Statistics(Model):
    """What a namespace holds.

    ``merged`` counts near-duplicates that one of the ``memories`` stands for, ``waiting`` those whose note is not
    written yet. The figures of prefetching count since the process opened the store.
    """

    user_id: str
    memories: int
    merged: int = 0
    waiting: int = 0
    versions: int
    vectors: int
    links: int
    text_characters: int
    embedder: str | None = None
    dimension: int | None = None
    indexed: bool
    index_lag: int
    activations: int = 0
    activation_tokens: int = 0
    activation_bytes: int = 0
    activation_hits: int = 0
    activation_misses: int = 0
    tokens_reused: int = 0
    adapters: int = 0
    adapter_bytes: int = 0
    adapter_hits: int = 0
    prefetch_hits: int = 0
    prefetch_misses: int = 0
    prefetch_hit_rate: float = 0.0
    prefetch_bytes: int = 0
    prefetch_wasted_bytes: int = 0


class RejectedLine(Model):
    """A line of an import that could not be used, by number (1-based), and why."""

    line: int
    reason: str


class ImportReport(Model):
    """What an import did: memories stored, memories already there, and lines rejected."""

    format: str
    imported: int
    skipped: int
    rejected: tuple[RejectedLine, ...] = ()


class Move(Model):
    """A cube made in a higher tier (``action`` ``promote``) or one given up (``demote``), and why; or a memory fused
    from several (``fuse``) or given up for them (``split``).

    ``uses`` are expected within a half life of heat, each saves ``seconds_saved``, and the cube takes ``bytes``. One
    that was carried out has an ``id`` and a time, the ``job_id`` of what a job makes, and ``undoes``, the move it took
    back.
    """

    action: str
    tier: str
    cube_id: str | None = None
    sources: tuple[Parent, ...]
    uses: float
    seconds_saved: float
    bytes: int
    reason: str
    codec: str | None = None
    id: str | None = None
    job_id: str | None = None
    undoes: str | None = None
    created_at: datetime | None = None


class KVFile(Model):
    """A KV file. ``bytes`` stand for ``raw_bytes`` of cache; ``loss`` is what that costs.

    It is the KL divergence, in nats per token, that the codec was measured to cost over the last tokens of the
    memories; 0 without loss. ``problem`` says why the file cannot be used, where it was read to find out.
    """

    cube_id: str
    codec: str
    tokens: int
    bytes: int
    raw_bytes: int
    memories: int
    hits: int
    loss: float = 0.0
    problem: str | None = None


class KVSettings(Model):
    """What holds for a user's KV files unless a request names something else; None is what the store is set to.

    ``codec`` is how new files are compressed, ``compose`` the mode in which several begin a prompt, ``ratio`` the share
    of their tokens that is computed anew, from 0 to 1.
    """

    user_id: str
    codec: str | None = None
    compose: str | None = None
    ratio: float | None = None


class BackupReport(Model):
    """A backup that is on the disk whole. ``created_at`` is the moment that it is of, ``bytes`` its size unpacked.

    ``left_out`` counts KV files and adapters that were gone or damaged: a restore does without them.
    """

    id: str
    path: str
    created_at: datetime
    namespaces: int
    memories: int
    kv_files: int
    adapters: int
    left_out: int
    bytes: int


class RestoreReport(Model):
    """What was restored of the backup ``id``. ``replaced`` counts users who had other memories before.

    ``kv_dropped`` and ``adapters_dropped`` count what was not in the backup, or found no room: chats compute anew what
    KV files held, and ``retraining`` adapters are trained again from their memories.
    """

    id: str
    created_at: datetime
    namespaces: int
    memories: int
    kv_files: int
    adapters: int
    kv_dropped: int
    adapters_dropped: int
    retraining: int
    replaced: int


class Job(Model):
    """A piece of work that goes on after the call. ``progress`` runs from 0 to 1.

    ``state`` is ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``. ``result`` is there when it is done
    (``cube_id`` of a promotion), ``error`` when it failed, or failed and will be tried again after ``run_after``.
    ``cancelling``: it is running and was asked to end. Jobs of a higher ``priority`` are run first.
    """

    id: str
    user_id: str
    task: str
    state: str
    progress: float
    result: dict[str, Any] | None = None
    error: str | None = None
    attempts: int
    priority: int = 0
    cancelling: bool = False
    run_after: datetime | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def over(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.state in {"done", "failed", "cancelled"}


class AdapterInfo(Model):
    """An adapter or cartridge: memories as weights.

    ``payload`` is ``lora`` or ``cartridge``. ``state`` is ``published`` (served), ``superseded`` (an earlier
    ``version``, which a rollback brings back) or ``rejected`` (it failed its gate, whose report is all there is).
    ``rank`` is the largest of an adapter, ``tokens`` the length of a cartridge. An imported one has no ``parents`` and
    no ``gate``, and is used only where a request names it.
    """

    cube_id: str
    name: str | None = None
    payload: str
    state: str
    version: int
    rank: int
    tokens: int
    bytes: int
    hits: int
    digest: str
    base: str
    gate: dict[str, Any] | None = None
    provenance: dict[str, Any]
    parents: tuple[Parent, ...] = ()
    created_at: datetime


class BundleUse(Model):
    """A bundle that a KV file brought: its tokens that were ``reused``, and that were ``recomputed`` all the same."""

    cube_id: str
    reused: int
    recomputed: int


class Usage(Model):
    """Tokens and milliseconds of a reply.

    Every token of the prompt was reused from a KV file, shared with an earlier prompt that began alike, or recomputed;
    ``tokens_missed`` are those of the last kind that a KV file should have brought. ``mode`` says how KV files began
    the prompt (None if none did), ``ratio`` what share of their tokens was to be computed anew, ``bundles`` what became
    of each; ``retrieval`` how tokens chose what they attended of KV files (None: all), ``attended`` what share it was.
    ``milliseconds``: ``recall``, ``lookup``, ``read``, ``decode``, ``compose``, ``prefill``, ``first_token``,
    ``total``.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    tokens_reused: int = 0
    tokens_shared: int = 0
    tokens_recomputed: int = 0
    tokens_missed: int = 0
    mode: str | None = None
    ratio: float = 0.0
    retrieval: str | None = None
    attended: float = 1.0
    bundles: tuple[BundleUse, ...] = ()
    milliseconds: dict[str, float] = {}


class Miss(Model):
    """A cube that should have served a reply, and why it did not."""

    cube_id: str
    reason: str


class ChatReply(Model):
    """An answer. ``tiers`` names the cubes it was made with by the tier that served them."""

    text: str
    finish_reason: str
    model: str
    usage: Usage
    tiers: dict[str, tuple[str, ...]] = {}
    misses: tuple[Miss, ...] = ()
