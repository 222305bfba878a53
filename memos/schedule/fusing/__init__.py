"""Fusion: memories that belong together -> one memory that says what they say -> they are put away, and come back."""
