"""The quality classifier: a ResNet that learns from labelled images which ones are good."""
