"""Numeric kernels: one module per operation, each with a PyTorch reference, a CPU and a GPU form.

The reference states the equation, shapes and dtypes and is what the other forms are tested
against. Every module imports without Triton, Numba or a GPU; a form that is missing falls back to
the reference.
"""
