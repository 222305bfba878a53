"""Memories in and out of files: exports, and imports of exports, JSON Lines, conversations and prose."""
