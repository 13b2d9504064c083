"""`python -m sightline VERB`."""

from sightline.cli import main

main()
