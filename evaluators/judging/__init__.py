"""Asking another model for its verdict: what a study says of it, the requests, the endpoint, the cache."""
