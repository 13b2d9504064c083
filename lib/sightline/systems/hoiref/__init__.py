"""HOI-Ref: hands and objects referred in egocentric frames (arXiv 2404.09933)."""
