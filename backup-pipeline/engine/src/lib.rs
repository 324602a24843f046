//! Backup and restore: plan, bounded stages, resume, progress.
