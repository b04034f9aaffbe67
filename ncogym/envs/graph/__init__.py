"""Graphs: sets of nodes of sparse graphs, what they are drawn from, and what they share."""
