"""The paper's tables behind reproduce.py: what they consist of, their cells, what came of them.

A wing of the scripts, not a room: like a script it may use every room.
"""
