"""Backups: one namespace or all, rows and files, into a folder or one archive, and back into any store."""
