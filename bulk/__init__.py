"""What bulk_embed.py alone is made of.

inputs.py  what is embedded, in parts that are embedded as a whole, on any file system
parts.py   the files of a finished part, and what a directory of them says of itself
actor.py   an Embedder in a process of Ray's, which embeds parts
"""
