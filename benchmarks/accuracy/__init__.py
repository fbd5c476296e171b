"""Accuracy: ask every model the same questions, and score its answers apart from asking.

`evaluate` orders passes; a pass (`passes`) asks (`asking`) and scores (`scoring`) image by image;
`predictions` keeps answers, `rescoring` scores them again, `teachers` makes references of them.
"""
