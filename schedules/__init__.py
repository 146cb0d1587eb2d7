"""HOW Programs are mapped onto machines: targets, spaces of choices, moves, and the schedules themselves."""
