//! Tidemill host.
