"""This machine: cores, memory and devices."""
