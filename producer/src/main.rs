//! `gannet`: tunes networks and labels pictures, on a fleet or right here.

use std::process::ExitCode;

use producer::commands::{Cli, complete_if_asked, status_of};
use shared::{arguments, logs};

fn main() -> ExitCode {
    // The executors of the workers inside this command are this very program.
    #[cfg(feature = "embedded")]
    worker::executor::run_if_asked();
    if let Some(status) = complete_if_asked() {
        return status;
    }
    match arguments::parse::<Cli>().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logs::last_word("gannet", &error);
            ExitCode::from(status_of(&error))
        }
    }
}
