//! The event service.
