"""The networks of Stream-VLM, and the sizes that everything around them agrees on."""

FRAMES_PER_STEP = 4
"""Frames the 3D CNN reads for one feature step."""
FEATURE_CHANNELS = 1280
"""Channels of a feature map."""
