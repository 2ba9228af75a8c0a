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
    /// Answer at a loopback address
    Serve {
        /// The database, as a role that may only read: "host=/run/postgresql dbname=search user=search_reader"
        #[arg(long)]
        database: Config,
        /// The manual's directory of HTML files
        #[arg(long)]
        manual: PathBuf,
        /// 0: any that is free
        #[arg(long, default_value_t = 8000)]
        port: u16,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result: Result<(), Box<dyn std::error::Error>> = match Command::parse() {
        Command::Load { database, manual, wait } => {
            search::load::load(&database, &manual, wait.map(Duration::from_secs)).await.map_err(Into::into)
        }
        Command::Serve { database, manual, port } => {
            search::serve::serve(&database, &manual, port).await.map_err(Into::into)
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
