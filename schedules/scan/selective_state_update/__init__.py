"""CUDA schedules of scan.selective_state_update."""

ORDER = ("channel_teams",)
