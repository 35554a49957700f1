"""The ground floor: errors, units, clock, ids and the database.

A module enters here only when two folders need it. It imports nothing of ours but its neighbours.
"""
