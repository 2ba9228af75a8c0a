use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio_postgres::Config;

/// A search page over the PostgreSQL manual.
#[derive(Parser)]
enum Command {
    /// Put the manual into a database, and wait until it is embedded
    Load {
        /// The database, as its owner: "host=/run/postgresql dbname=search user=postgres"
        #[arg(long)]
        database: Config,
        /// The manual's directory of HTML files
        #[arg(long)]
        manual: PathBuf,
        /// How many seconds to wait at most; the workers go on afterwards. Without: until all is embedded
        #[arg(long)]
        wait: Option<u64>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Load { database, manual, wait } => {
            search::load::load(&database, &manual, wait.map(Duration::from_secs)).await
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
