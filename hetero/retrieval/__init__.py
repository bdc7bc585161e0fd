"""Exact search, galleries on disk, metrics, thresholds and the compatibility report; none needs torch."""
