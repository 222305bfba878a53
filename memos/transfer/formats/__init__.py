"""Import formats, one per file.

Each has ``read(source)``, which yields in the order of the file either a line number with a mapping that
:func:`memos.plaintext.intake.check_memory` takes (the own format: a :class:`memos.transfer.record.MemoryRecord`), or
the rejection of a line. A ``run_id`` they derive from file and session yields to one the caller names.
"""
