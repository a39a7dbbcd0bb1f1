"""Edits of an inverted image by Prompt-to-Prompt, and others' editors to compare with.

``prompt_to_prompt`` is the loop, ``attention`` what it does to attention, ``blending`` how it keeps the rest of the
image, ``rows`` the batch that it denoises, and ``settings`` what can be chosen. ``pipelines`` has the other editors
of Stable Diffusion, ``pretrained`` those with networks of their own, ``editors`` what they share, ``recipes`` how
diffusers' pipelines are called, and ``instructions`` what changes between two prompts, in words.
"""
