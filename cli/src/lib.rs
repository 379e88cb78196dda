//! The client side of the `tidemill` command.

pub mod api;
