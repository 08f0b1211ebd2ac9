"""What may vary: parameters, orders, mixes, and recipes as decided values."""
