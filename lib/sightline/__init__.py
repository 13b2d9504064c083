"""Sightline: reproduces, runs and compares published video and egocentric vision-language systems.

The package is a plain library: it never imports Snakemake, and every stage can be called from Python.
"""

__version__ = "0.1.0"
