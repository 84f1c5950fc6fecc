"""What embed.py alone is made of.

sources.py  what is embedded: a CSV, a folder, a list of files, or one image
outputs.py  the formats of the embeddings, by the end of the file's name
blocks.py   what an interrupted run has done, for --resume
shards.py   a data set embedded in parts: which rows, what files, how joined
"""
