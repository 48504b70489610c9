"""Measurements on a GPU machine without a network: what travels there, and what runs there."""
