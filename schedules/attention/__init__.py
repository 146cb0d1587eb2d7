"""Schedules of attention, and what its kernels on every target share.

online.py  the stages of an attention, and how they are asked for piece by piece
"""
