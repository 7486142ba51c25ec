"""What makes a network faster without changing its outputs, and what feeds it pictures."""
