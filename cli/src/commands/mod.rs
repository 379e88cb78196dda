//! One module a command: its arguments, what it does, what it prints.

pub(crate) mod build;
pub(crate) mod changes;
pub(crate) mod dead_letters;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod history;
pub(crate) mod hosts;
pub(crate) mod inspect;
pub(crate) mod invoke;
pub(crate) mod logs;
pub(crate) mod new;
pub(crate) mod offsets;
pub(crate) mod pause;
pub(crate) mod remove;
pub(crate) mod replay;
pub(crate) mod rollback;
pub(crate) mod services;
pub(crate) mod state;
