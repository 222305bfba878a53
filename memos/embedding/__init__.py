"""Text embedders: sentence-transformers models and OpenAI-compatible endpoints."""
