"""Decode-time sparse retrieval: of a long cache, each row attends the pages that promise most, exactly."""
