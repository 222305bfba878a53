"""The OpenAI-compatible interface: chats with memory, answered by the local model or an upstream server."""
