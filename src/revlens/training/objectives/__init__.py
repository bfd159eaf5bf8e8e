"""The guards, one idea a file: what each adds to a fine-tune or changes of it, and where it comes from.

`revlens.training.methods` has a record of each; `revlens.training` offers the classes.
"""
