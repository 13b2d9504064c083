"""Side-by-side measurements of what the project claims about speed; `python -m benchmarks` runs them all."""
