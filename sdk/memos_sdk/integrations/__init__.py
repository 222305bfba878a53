"""Adapters to agent frameworks, a module and an extra each: ``pip install 'agent-memos-sdk[langgraph]'``.

Nothing is imported here, so that no framework is needed for another one's adapter.
"""
