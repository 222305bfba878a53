"""The activation tier: KV caches of bundles, kept as files and reloaded instead of recomputed (design §6)."""
