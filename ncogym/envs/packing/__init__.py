"""Packing: knapsacks, and what they are drawn from."""
