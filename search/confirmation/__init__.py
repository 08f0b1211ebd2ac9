"""Confirmation: chosen recipes trained again with fresh seeds, to correct for having picked the best-looking."""
