"""Chat: recalled memories, a language model, and which tier served what."""
