"""The method: what LocInv and its relatives do at a timestep, formula by formula."""
