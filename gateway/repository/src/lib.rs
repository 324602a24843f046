//! Restore points as block-indexed, deduplicated, sealed images on a destination.
