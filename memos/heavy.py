"""Libraries of models, which fill themselves as they are used: two threads that do so at once find them half empty."""

from __future__ import annotations

import threading

#: Held while a model is loaded, and its library imported. A worker's first jobs may need two libraries at once.
LOADING = threading.RLock()
