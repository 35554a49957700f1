"""The express lane: plain chat calls of busy accounts, served by compiled code; all others by Python."""
