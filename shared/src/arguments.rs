//! Reading a command line, so that a wrong value from a variable is told by the variable's name, and a misspelt
//! variable at all.

use clap::error::{ContextKind, ContextValue};
use clap::{Command, Parser};

use crate::settings::misspelt;

/// Reads the process's arguments and variables, or says what is wrong with them and ends the process.
pub fn parse<T: Parser>() -> T {
    let variables: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    for problem in misspelt(variables.iter().map(String::as_str)) {
        eprintln!("{}: warning: {problem}", T::command().get_name());
    }
    T::try_parse().unwrap_or_else(|error| {
        let mut command = T::command();
        // Built, since only then an argument can be shown.
        command.build();
        if let Some(variable) = variable_of(&error, &command) {
            eprintln!("the value comes from the variable {variable}");
        }
        error.exit()
    })
}

/// The variable that the refused value came from.
fn variable_of(error: &clap::Error, command: &Command) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (argument, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    // On the command line the value would have been seen.
    if std::env::args().skip(1).any(|given| given.contains(value)) {
        return None;
    }
    let mut commands = vec![command];
    while let Some(command) = commands.pop() {
        let found = command.get_arguments().find(|known| known.to_string() == argument && known.get_env().is_some());
        if let Some(variable) = found.and_then(|known| known.get_env()) {
            return Some(variable.to_string_lossy().into_owned());
        }
        commands.extend(command.get_subcommands());
    }
    None
}
