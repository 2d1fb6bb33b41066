"""Pictures of maps, neurons and images: axes in, axes out."""
