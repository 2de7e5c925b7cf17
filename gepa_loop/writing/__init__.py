"""Questions written for a distillation: who writes them, and which are kept."""
