"""A cache whose layers arrive one after the other, each to be read as soon as it is there."""

from __future__ import annotations

import threading
import time

import torch

from memos.activation.container import KVHeader
from memos.activation.kv import KVBlock, KVShape
from memos.activation.miss import KVMiss
from memos.activation.ragged import RaggedBlock, RaggedLayer, RaggedLayout, no_dense_form


class LayeredKV:
    """The cache of a file that is being loaded, or was: a :class:`~memos.activation.kv.KVSource`.

    Nobody writes into it but its loader, so that any number of requests may read it at once. It stays valid, whatever
    becomes of its file, as long as anyone holds it or a tensor of it.
    """

    def __init__(self, header: KVHeader, data: torch.Tensor, *, file_bytes: int, lookup_ms: float) -> None:
        self.header = header
        self.file_bytes = file_bytes
        #: ``lookup``, ``read`` (with checksums) and ``decode``, the latter two summed over the loader's threads, and
        #: ``load``: from the call until all layers were there.
        self.milliseconds = {"lookup": lookup_ms, "read": 0.0, "decode": 0.0, "load": 0.0}
        self._data = data
        self._arrived = [False] * header.shape.layers
        self._missing = header.shape.layers
        self._failure: KVMiss | None = None
        self._change = threading.Condition()
        self._start = time.perf_counter()

    @property
    def shape(self) -> KVShape:
        """What one token's cache looks like."""
        return self.header.shape

    @property
    def tokens(self) -> int:
        """The number of cached tokens, at positions ``0 .. tokens - 1``."""
        return self.header.tokens

    @property
    def bytes(self) -> int:
        """The size of the cache in memory."""
        return self._data.nbytes

    @property
    def failure(self) -> KVMiss | None:
        """Why some layer will never arrive."""
        return self._failure

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys (after RoPE) and values of a layer, each ``[heads, tokens, head_dim]``, once they are verified.

        Raises :class:`KVMiss` if they cannot be: recompute instead.
        """
        self._await(index)
        return self._data[index, 0], self._data[index, 1]

    def wait(self) -> KVBlock:
        """Return the whole cache once every layer is verified. Raises :class:`KVMiss`."""
        self.settle()
        return KVBlock(self.shape, self._data)

    def settle(self) -> None:
        """Wait until every layer is verified. Raises :class:`KVMiss`."""
        with self._change:
            self._change.wait_for(lambda: not self._missing or self._failure)
        if self._missing:
            self._raise()

    def _await(self, index: int) -> None:
        if not self._arrived[index]:
            with self._change:
                self._change.wait_for(lambda: self._arrived[index] or self._failure)
            if not self._arrived[index]:
                self._raise()

    def _raise(self) -> None:
        if self._failure is not None:  # a new one each time: a traceback would keep the cache alive
            raise KVMiss(self._failure.reason, self._failure.message)

    # ------------------------------------------------------------ the loader's side

    def slot(self, index: int) -> torch.Tensor:
        """Return where the loader writes a layer, ``[2, heads, tokens, head_dim]``."""
        return self._data[index]

    def arrive(self, index: int, *, read_ms: float, decode_ms: float) -> None:
        """Let readers have a layer."""
        with self._change:
            self.milliseconds["read"] += read_ms
            self.milliseconds["decode"] += decode_ms
            self.milliseconds["load"] = (time.perf_counter() - self._start) * 1e3
            self._arrived[index] = True
            self._missing -= 1
            self._change.notify_all()

    def fail(self, miss: KVMiss) -> None:
        """Tell readers that what has not arrived will not; the first reason counts, and none once all is there."""
        with self._change:
            if self._missing and self._failure is None:
                self._failure = KVMiss(miss.reason, miss.message)
            self._change.notify_all()


class RaggedKV(LayeredKV):
    """The same for a file whose heads keep tokens of their own choice: ``data`` has room for those and no more.

    A :class:`~memos.activation.ragged.RaggedSource`.
    """

    def __init__(
        self, header: KVHeader, layout: RaggedLayout, data: torch.Tensor, *, file_bytes: int, lookup_ms: float
    ) -> None:
        super().__init__(header, data, file_bytes=file_bytes, lookup_ms=lookup_ms)
        self.layout = layout
        self._layers = layout.split(data, header.shape.head_dim)

    @property
    def bytes(self) -> int:
        """The size of the cache in memory."""
        return self._data.nbytes + self.layout.bytes

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Raise :class:`KVMiss`: there is no dense form."""
        raise no_dense_form()

    def wait(self) -> KVBlock:
        """Raise :class:`KVMiss`: there is no dense form."""
        raise no_dense_form()

    def ragged_layer(self, index: int) -> RaggedLayer:
        """Return a layer once it is verified. Raises :class:`KVMiss` if it cannot be."""
        self._await(index)
        return self.layout.layer_of(index, self._layers[index])

    def ragged(self) -> RaggedBlock:
        """Return the whole cache once every layer is verified. Raises :class:`KVMiss`."""
        self.settle()
        return RaggedBlock(self.shape, self.layout, self._layers)

    def slot(self, index: int) -> torch.Tensor:
        """Return where the loader writes a layer, ``[2, entries, head_dim]``."""
        return self._layers[index]
