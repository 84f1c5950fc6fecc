"""What embed.py alone is made of.

shards.py  a data set embedded in parts: which rows, what files, how joined
"""
