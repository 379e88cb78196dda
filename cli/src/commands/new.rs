//! `tidemill new`: a project that builds, tests and deploys as it is.
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;
const EXAMPLES: &str = "Examples:";
/// What `tidemill new` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    name: String,
    #[arg(long)]
    dir: Option<PathBuf>,
}
pub(crate) fn run(_args: Args) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
