"""Which entries of a KV cache are kept: one policy per file, each with its paper."""
