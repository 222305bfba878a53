"""Foresight: which KV file or adapter the next use needs -> brought into host memory before, within a budget."""
