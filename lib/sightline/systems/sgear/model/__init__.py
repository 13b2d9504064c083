"""S-GEAR's network (ECCV 2024, arXiv 2407.02309): frames or features in, a future feature and its class out."""
