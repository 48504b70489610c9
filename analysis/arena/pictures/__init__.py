"""Pictures of the stored board."""
