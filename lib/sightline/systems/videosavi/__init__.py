"""VideoSAVi: a video language model that improves itself with preference pairs it makes (arXiv 2412.00624)."""
