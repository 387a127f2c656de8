"""Checking a sweep before it runs: likely mistakes, and what it will cost."""
