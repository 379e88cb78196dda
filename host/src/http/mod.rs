//! The public listener: services only, and the pages that document them.

mod answer;
mod docs;
pub mod listener;
mod position;
pub mod publishing;
