//! What a deploy checks and says before the swap, beyond what a component must be
//! to run at all.
//!
//! `changes` tells what is not as it was, `graph` what may be a mistake between
//! services; both decide nothing and do no I/O. `smoke` makes the calls that a
//! manifest asks for, and can refuse the deploy.

pub mod changes;
pub mod graph;
pub mod smoke;
