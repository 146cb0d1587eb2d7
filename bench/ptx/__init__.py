"""How fast the PTX machine is."""
