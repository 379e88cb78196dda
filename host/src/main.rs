//! The `tidemill` command: a host, and what one does with it.

use std::process::ExitCode;

use clap::Parser;

// Guests' bytes are copied in and out all the time, by many threads.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Event-driven microservices as WASM components, on HTTP and Kafka
#[derive(Parser)]
#[command(name = "tidemill", version, arg_required_else_help = true)]
struct Tidemill {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run a host: serve HTTP, consume Kafka, take deployments
    Serve(Box<tidemill_host::serve::Args>),
    /// What a host starts to compile a component
    #[command(hide = true)]
    Compile {
        output: std::path::PathBuf,
        limit: u64,
    },
    #[command(flatten)]
    Client(Box<tidemill_cli::Command>),
}

fn main() -> ExitCode {
    match Tidemill::parse().command {
        Command::Serve(args) => tidemill_host::serve::run(*args),
        Command::Compile { output, limit } => tidemill_host::runtime::compile(&output, limit),
        Command::Client(command) => command.run(&TOOLS),
    }
}

/// What the client's commands cannot do without a runtime.
const TOOLS: tidemill_cli::Tools = tidemill_cli::Tools {
    describe: |component, manifest| {
        Ok(tidemill_host::describe::openapi(
            component,
            manifest.clone(),
        )?)
    },
};
