"""Background work: the Celery application and its tasks.

The queue carries identifiers of jobs and nothing else. A task takes the job whose turn it is from the database and runs
the same function that an embedded engine runs in its own process. Started with ``celery -A memos_workers.app worker``.
"""
