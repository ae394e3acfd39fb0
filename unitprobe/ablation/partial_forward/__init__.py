"""The engine that computes only what an ablated unit reaches.

``network_graph`` captures a network as operations, ``downstream`` runs those that depend on a
layer, ``partial_engine`` sweeps the units of a layer with it.
"""
