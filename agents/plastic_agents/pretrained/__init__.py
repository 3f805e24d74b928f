"""Trained networks that are part of the package: their cards, and the function that loads them."""
