"""The fewest REST calls for one operation.

Batches the keys that resolvers ask for, plans point reads or a list scan, and keeps every object that the operation has
seen. Lives for one operation; never shares anything between two.
"""
