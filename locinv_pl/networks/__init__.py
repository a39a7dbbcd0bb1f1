"""Networks: how one is loaded, sampled, watched in its cross-attention, and made fast."""
