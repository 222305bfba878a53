"""Background work: the Celery application and its tasks.

The queue carries job identifiers and nothing else. A task loads the durable job from the database
and runs the same function that an embedded engine runs in its own process. Started with
``celery -A memos_workers.app worker``.
"""
