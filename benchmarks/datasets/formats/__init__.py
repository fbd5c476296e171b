"""Dataset formats other than COCO and SA-1B: mask files, YOLO, Pascal VOC, LabelMe.

Annotations are read by this package and rasterised by pycocotools, image by image. Loaders of other
libraries keep the masks of all images in memory and fill polygons with OpenCV or Pillow, whose
masks differ from those of the same polygons in a COCO file.
"""

INTERACTIVE = ("grabcut", "berkeley", "davis345", "sbd", "coco-mval")
"""Datasets of interactive segmentation, whose layouts are known by name."""
