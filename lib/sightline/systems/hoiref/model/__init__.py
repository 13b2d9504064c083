"""The networks of VLM4HOI: EVA's vision transformer, a projection, and LLaMA-2-chat with LoRA."""

MERGED_PATCHES = 4
"""Consecutive patches that become one token of the language model."""
PATCH = 14
"""Side of a patch in pixels."""
