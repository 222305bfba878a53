"""From an opened file to a cache in memory: read into place, verify, decode, while earlier layers are in use."""

from __future__ import annotations

import functools
import io
import os
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from zstandard import ZstdError

from memos.activation.buffers import PAGE, BufferPool, Bytes
from memos.activation.codecs.base import Array, Codec, LayerDecoder, RaggedDecoder
from memos.activation.codecs.raw import PART, RawCodec
from memos.activation.codecs.registry import make_codec
from memos.activation.layered import LayeredKV, RaggedKV
from memos.activation.layout import Tensor
from memos.activation.miss import KVMiss
from memos.activation.opened import Opened, read_arrays, read_tensor, room_for, short_name
from memos.errors import InvalidInput

#: Threads that read and decode, for all loads together.
THREADS = 2
#: What a decoder may raise for arrays that are not of its making, though their checksums are right.
_UNDECODABLE = (ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError, struct.error, ZstdError)

_buffers = BufferPool()


def load(opened: Opened) -> LayeredKV:
    """Begin to load a file and return its cache at once; layers arrive in order. Closes the file when done.

    Raises :class:`KVMiss` when the codec is unknown or there is no memory; what goes wrong later, readers of the layer
    are told.
    """
    try:
        job = _Job(opened)
    except BaseException:
        opened.close()
        raise
    for _ in range(job.workers):
        _executor().submit(job.run)
    return job.kv


def overlap_pays() -> bool:
    """Whether layers had better arrive while a model on the CPU works on earlier ones: only if cores are left for it.

    Where the model keeps every core busy, a loader beside it only takes turns with the model's threads.
    """
    return len(os.sched_getaffinity(0)) > torch.get_num_threads()


@functools.cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "memos-kv-load")


os.register_at_fork(after_in_child=_executor.cache_clear)  # threads do not survive a fork


class _Job:
    """One load, worked on by several threads: each takes the next layer that nobody has."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        codec = _codec(opened)
        self._raw = isinstance(codec, RawCodec)
        self._decoder = _decoder(codec, opened)
        self.kv = _cache(opened, self._decoder)
        self.workers = min(THREADS, len(opened.layers))
        self._working = self.workers
        self._layers = iter(range(len(opened.layers)))
        self._lock = threading.Lock()

    def run(self) -> None:
        """Load layers until there are none left."""
        try:
            room = None if self._raw else room_for(*self._opened.layers)
            while self.kv.failure is None and (layer := self._next()) is not None:
                self._load(layer, room)
        except KVMiss as miss:
            self.kv.fail(miss)
        finally:
            self._leave()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._layers, None)

    def _load(self, layer: int, room: Bytes | None) -> None:
        start = time.perf_counter()
        tensors, file = self._opened.layers[layer], self._opened.file
        if room is None:
            _read_raw(file, tensors, self.kv.slot(layer))
            middle = time.perf_counter()
        else:
            arrays = read_arrays(file, tensors, room)
            middle = time.perf_counter()
            parts = {short_name(tensor): arrays[tensor.name] for tensor in tensors if tensor.name in arrays}
            _decode(self._decoder, layer, parts, self.kv.slot(layer))
        end = time.perf_counter()
        self.kv.arrive(layer, read_ms=(middle - start) * 1e3, decode_ms=(end - middle) * 1e3)

    def _leave(self) -> None:
        """The last one out closes the file; layers that nobody could load by then never will be."""
        with self._lock:
            self._working -= 1
            last = not self._working
        if last:
            self._opened.close()
            self.kv.fail(KVMiss("codec", "loading ended early"))


def _codec(opened: Opened) -> Codec:
    try:
        return make_codec(opened.header.codec)
    except InvalidInput as error:
        raise KVMiss("codec", error.message) from error


def _decoder(codec: Codec, opened: Opened) -> LayerDecoder:
    header = opened.header
    try:
        return codec.decoder(header.shape, header.tokens, opened.shared, header.parameters)
    except _UNDECODABLE as error:
        raise KVMiss("codec", f"{header.codec} cannot decode it: {error}") from error


def _cache(opened: Opened, decoder: LayerDecoder) -> LayeredKV:
    """Return a cache to be loaded, with memory for what its file holds."""
    header = opened.header
    shape, tokens, size, lookup = header.shape, header.tokens, opened.bytes, opened.lookup_ms
    if isinstance(decoder, RaggedDecoder):
        elements = 2 * shape.head_dim * decoder.layout.entries
        data = _buffer(opened, elements)
        return RaggedKV(header, decoder.layout, data, file_bytes=size, lookup_ms=lookup)
    data = _buffer(opened, shape.elements(tokens)).view(shape.layers, 2, shape.heads, tokens, shape.head_dim)
    return LayeredKV(header, data, file_bytes=size, lookup_ms=lookup)


def _buffer(opened: Opened, elements: int) -> torch.Tensor:
    """Return memory for the decoded cache, aligned to pages as the layers are in the file."""
    dtype = opened.header.shape.torch_dtype
    phase = next((layer[0].start for layer in opened.layers if layer), 0) % PAGE
    try:
        memory = _buffers.take(elements * dtype.itemsize, phase)
    except MemoryError as error:
        raise KVMiss("io", f"there is no memory for it: {error}") from error
    return torch.from_numpy(memory).view(dtype)


def _read_raw(file: io.FileIO, tensors: Sequence[Tensor], out: torch.Tensor) -> None:
    """Read a layer that was not compressed straight into its place."""
    target = out.view(-1).view(torch.uint8).numpy()
    if not tensors or short_name(tensors[0]) != PART or tensors[0].size != target.nbytes:
        raise KVMiss("codec", "a raw layer of another size")
    read_tensor(file, tensors[0], target)
    read_arrays(file, tensors[1:])


def _decode(decoder: LayerDecoder, layer: int, parts: dict[str, Array], out: torch.Tensor) -> None:
    try:
        decoder.decode(layer, parts, out)
    except _UNDECODABLE as error:
        raise KVMiss("codec", f"layer {layer} cannot be decoded: {error}") from error
