"""Where images, reference masks and prompts come from: COCO, SA-1B and scenes drawn from a seed."""
