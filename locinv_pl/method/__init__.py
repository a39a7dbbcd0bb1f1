"""The method: what LocInv and its relatives do at a timestep, formula by formula.

Where a formula stands:

- L_sim, L_ovl, L_adj, L_leak, L_mar, DPL's losses, TH_i: ``losses.py``, a function each
- V_t, phase 1 of a timestep: ``dynamic_tokens.py``, :func:`optimize_tokens`
- ∅_t, phase 2: ``null_text.py``, :func:`optimize_null_text`
- the DDIM step and guidance: ``locinv_pl/networks/schedule.py``, :class:`Schedule`, :func:`guided`
- z̄_0..z̄_T, DDIM inversion: ``task.py``, :func:`ddim_invert`; refined steps: :func:`renoise`; drawn from z_0:
  :func:`virtual_invert`
- M, DPL's background: ``background.py``, :func:`estimate_background`
- a whole timestep: ``timestep.py``, :func:`invert_step`

Symbols: z_t latent, V_t dynamic tokens, ∅_t null text, A_t attention maps, S priors, w guidance scale; B images, T
steps, K nouns, L token positions, D text width, n losses, (r, c) the attention grid, (C, h, w) a latent. Step i = 0 is
the noisiest.
"""
