"""Ablate single units of trained networks, and judge the claims of the literature."""
