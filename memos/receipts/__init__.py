"""Deletion receipts: what was removed, signed, and whether it still is."""
