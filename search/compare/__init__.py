"""Two trials side by side: what they were made of, how they score, what they cost, what they wrote."""
