"""SQL truth, repositories, vector index, lexical index and outbox."""
