"""A small catalogue to start with: two organisations, the seed model listed, priced, and a voucher.

Development only, and done once: seeding again changes nothing.
"""
