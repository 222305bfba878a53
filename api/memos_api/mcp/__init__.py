"""The Model Context Protocol: tools by which a language model stores, finds, changes and forgets memories.

There is one set of tools (:mod:`~memos_api.mcp.tools`) and one server of them (:mod:`~memos_api.mcp.server`). What
differs is how it reaches memories: in the service as REST does (:mod:`~memos_api.mcp.http`), or from a process of its
own through the client (:mod:`~memos_api.mcp.stdio`).
"""
