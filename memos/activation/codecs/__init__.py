"""How a KV cache becomes bytes: select → merge → quantise → entropy-code, one file per method."""
