"""Who goes when a byte-capped tier is full: one policy per file, on one base class."""
