"""Scheduling: job shops, their schedules, and what they are drawn from."""
