"""Image encoders: decoding, preprocessing, weights, backbone networks and feature reduction."""
