"""Routing: tours and routes, what they are drawn from, and what they share."""
