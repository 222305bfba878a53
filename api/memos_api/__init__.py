"""The HTTP service: FastAPI routes under ``/v1``, started with ``uvicorn memos_api.app:app``.

It turns requests into calls on :class:`memos.MemoryOS` and errors into RFC 9457 problem bodies. It
holds no rule about memories itself; the tenant comes from the API key, never from a request body.
"""
