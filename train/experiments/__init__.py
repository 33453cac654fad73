"""Parts of the scripts that stand in the folder above.

`shared` serves all training scripts, and `image_figures` all those over images. The others serve
the script that their name begins with.
"""
