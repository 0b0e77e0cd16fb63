"""Models in formats of other runtimes: ONNX for ONNX Runtime, and OpenVINO."""
