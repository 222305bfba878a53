"""A-MEM's notes (Xu et al. 2025, arXiv 2502.12110): construct, link, evolve."""
