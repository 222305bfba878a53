"""Notes: analysis, recall and what surrounds them."""
