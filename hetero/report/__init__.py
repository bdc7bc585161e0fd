"""Reports: ``report.json`` is the truth (schema.py); the page, its plots and the terminal table are views."""
