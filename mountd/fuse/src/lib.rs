//! FUSE mount that shows restore points as raw image files.
