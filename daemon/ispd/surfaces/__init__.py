"""Surfaces: adapters that speak the API over some transport. None has a method, a default or a check of its own."""
