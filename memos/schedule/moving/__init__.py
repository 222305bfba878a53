"""Moves between tiers: what would be worth moving -> within which bytes -> carried out, recorded, taken back."""
