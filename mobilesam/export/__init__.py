"""Export to ONNX and OpenVINO, and running of the exported files."""
