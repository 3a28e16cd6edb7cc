"""Everything about masks but the mask itself: where they come from, how they are checked and pictured."""
