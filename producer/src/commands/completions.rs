//! `gannet completions`, and the answers to a shell that asks while a command line is typed.
//!
//! A shell runs this program with [`VARIABLE`] and the words so far; `clap_complete` finds what may follow, and
//! [`names`] asks the store. Whatever goes wrong there is no answer, never a message.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::env::{EnvCompleter, Fish, Shells, Zsh};

use super::Cli;

mod bash;
mod names;

use bash::Bash;
pub(super) use names::{inputs, models, promoted, runs, versions};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples, each a line for the shell's start-up file:\n  source <(gannet completions bash)     # ~/.bashrc\n  source <(gannet completions zsh)      # ~/.zshrc, after compinit\n  gannet completions fish | source      # ~/.config/fish/config.fish\n\nNames come from the store that GANNET_STORE and GANNET_HOME name in that shell; one that does not answer within a second gives none."
)]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    fn adapter(self) -> &'static dyn EnvCompleter {
        match self {
            Self::Bash => &Bash,
            Self::Zsh => &Zsh,
            Self::Fish => &Fish,
        }
    }
}

/// Set by the scripts to the shell's name. Begins with `_`: it is no setting.
const VARIABLE: &str = "_GANNET_COMPLETE";
const SHELLS: Shells<'static> = Shells(&[&Bash, &Zsh, &Fish]);
const PROGRAM: &str = "gannet";

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // As it was called: by its name, which an upgrade may move, or by the path of a program that is not installed.
    let called = std::env::args().next().unwrap_or_else(|| PROGRAM.into());
    let program = if called.contains('/') {
        std::path::absolute(&called).context("find this program's own file")?.display().to_string()
    } else {
        called
    };
    let mut script = Vec::new();
    arguments.shell.adapter().write_registration(VARIABLE, PROGRAM, PROGRAM, &program, &mut script)?;
    std::io::stdout().write_all(&script).context("write to standard output")
}

/// Answers a shell that asks what may follow; `None` in every other run of the program.
pub fn complete_if_asked() -> Option<ExitCode> {
    let asked = std::env::var_os(VARIABLE).is_some_and(|shell| !shell.is_empty());
    if asked {
        // The prompt is no place for messages.
        std::panic::set_hook(Box::new(|_| ()));
        let folder = std::env::current_dir().ok();
        let answered = CompleteEnv::with_factory(Cli::command)
            .var(VARIABLE)
            .shells(SHELLS)
            .try_complete(std::env::args_os(), folder.as_deref());
        return Some(if answered.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    None
}
