"""What leaves: checkpoints as ONNX graphs that run without torch."""
