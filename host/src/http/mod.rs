//! The public listener: services only, and the pages that document them. How
//! connections are served is the admin listener's as well.

mod answer;
pub(crate) mod authority;
pub mod connections;
mod docs;
pub mod listener;
mod position;
pub mod publishing;
mod streams;

pub(crate) use position::POSITION;
