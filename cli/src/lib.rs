//! The client side of the `tidemill` command: `new`, `build`, `dev`, `inspect`,
//! `deploy`, `history`, `rollback`, `promote`, `hosts`, `services`, `logs`, `state`,
//! `replay`, `dead-letters`, `pause`, `resume`,
//! `offsets`, `remove`, `invoke`.
//!
//! The binary is the host's: it flattens [`Command`] beside its own `serve`.
//! Everything that talks to a host goes through its admin API ([`api`]).

pub mod api;
mod ask;
mod client;
mod commands;
mod failure;
mod inspection;
mod licences;
mod project;
mod sbom;
mod show;
mod tools;
mod value;

use std::process::ExitCode;

use commands::{
    build, dead_letters, deploy, dev, history, hosts, inspect, invoke, logs, new, offsets, pause,
    remove, replay, rollback, services, state,
};

pub use client::{Admin, Connection};
pub use show::{clean, size};
pub use tools::Tools;

/// The commands of `tidemill` other than `serve`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Start a new service: a project that builds, tests and deploys as it is
    New(new::Args),
    /// Compile a service to one file: the component with all that is to be known of it
    Build(build::Args),
    /// Watch services: build and deploy what is saved, show what they do
    Dev(dev::Args),
    /// Show what is in a component file, and what it could do if deployed
    Inspect(inspect::Args),
    /// Put a service on all hosts, at once
    Deploy(deploy::Args),
    /// Show what ran of a service, and what runs
    History(history::Args),
    /// Go back to a revision that ran before, or from a canary
    Rollback(rollback::RollbackArgs),
    /// Give a canary all requests and events
    Promote(rollback::PromoteArgs),
    /// List the live hosts of the cluster
    Hosts(hosts::Args),
    /// List what a host runs, or show one service in detail
    Services(services::Args),
    /// Show what a service logs, and what the host logs about it
    Logs(logs::Args),
    /// Show the tables of a service's state, and their rows
    State(state::Args),
    /// Build a service's state anew from its topics, while it goes on answering
    Replay(replay::Args),
    /// Show the events that a service could not handle, send them back, drop them
    #[command(visible_alias = "dead-letter")]
    DeadLetters(dead_letters::Args),
    /// Have a service consume nothing on any host, while it goes on answering
    Pause(pause::PauseArgs),
    /// Have a paused service consume again
    Resume(pause::ResumeArgs),
    /// Show where a service is in its topics, or set where it goes on
    Offsets(offsets::Args),
    /// Take a service off all hosts
    Remove(remove::Args),
    /// Call a handler by hand; what it publishes and writes is shown, not kept
    Invoke(invoke::Args),
}

impl Command {
    /// Runs the command to its end. What went wrong is on standard error by
    /// then, and the exit code is 1.
    #[must_use]
    pub fn run(self, tools: &Tools) -> ExitCode {
        let result = match self {
            Self::New(args) => new::run(args),
            Self::Build(args) => build::run(&args, tools),
            Self::Dev(args) => dev::run(&args),
            Self::Inspect(args) => inspect::run(&args),
            Self::Deploy(args) => deploy::run(&args),
            Self::History(args) => history::run(&args),
            Self::Rollback(args) => rollback::rollback(&args),
            Self::Promote(args) => rollback::promote(&args),
            Self::Hosts(args) => hosts::run(&args),
            Self::Services(args) => services::run(&args),
            Self::Logs(args) => logs::run(&args),
            Self::State(args) => state::run(&args),
            Self::Replay(args) => replay::run(&args),
            Self::DeadLetters(args) => dead_letters::run(&args),
            Self::Pause(args) => pause::pause(&args),
            Self::Resume(args) => pause::resume(&args),
            Self::Offsets(args) => offsets::run(&args),
            Self::Remove(args) => remove::run(&args),
            Self::Invoke(args) => invoke::run(args),
        };
        match result {
            Ok(code) => code,
            Err(error) => {
                anstream::eprintln!("{}", failure::render(&error));
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[derive(Debug, clap::Parser)]
    #[command(name = "tidemill")]
    struct Tidemill {
        #[command(subcommand)]
        _command: super::Command,
    }

    #[test]
    fn the_arguments_are_sound() {
        Tidemill::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Tidemill::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains("Examples"), "{}", command.get_name());
        }
    }
}
