"""Composition: the caches of many bundles in one prompt, each computed behind the constant head alone.

parts.py    what is composed, in order, and what is refused
moving.py   every part to its place: keys turned to their new positions
drift.py    what a text before a part does to its cache on average, measured once per model and added without computing
blend.py .. one file per mode: which tokens are computed anew, and how
scores.py   how much another context makes a bundle's cache wrong
variants.py bundles as they stood in earlier prompts: kept, bounded, forgotten
planner.py  which mode, and how many tokens, for one prompt
check.py    whether a model may be served composed prompts at all
"""
