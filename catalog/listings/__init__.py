"""Listings: what shoppers see of a model or an agent, and the road by which it gets there.

tables      what is stored
states      the road: every state and every transition, as one table
guards      what a transition demands, by name
chain       the append-only, hash-chained record of what happened
service     create, edit, move, read; takes a Session, never commits
content     the immutable snapshot that is reviewed and then shown
cards       Markdown to safe HTML
taxonomy    verticals and tasks, in Chinese and English
endpoints   HTTP
"""
