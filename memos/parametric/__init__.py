"""The parametric tier: memories as weights (LoRA adapters, cartridges), distilled, gated, registered and merged."""
