"""Who decides, and why: what stages, orders and doses did to scores, other routes, a recommendation. Plain data out."""
