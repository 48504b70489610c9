"""Small networks: from the last layer alone to all layers."""
