"""Retrain networks with a class-selectivity regularizer, and judge the claims of the paper."""
