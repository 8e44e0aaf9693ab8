//! Completion in bash: a script of our own around `clap_complete`'s protocol.
//!
//! `clap_complete`'s script breaks names of files with spaces, `--option=value`, and programs under a path with spaces.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap_complete::env::{self, EnvCompleter};

/// Bash, from 3.2 on.
#[derive(Debug)]
pub(super) struct Bash;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        env::Bash.name()
    }

    fn is(&self, name: &str) -> bool {
        env::Bash.is(name)
    }

    fn write_registration(
        &self,
        variable: &str,
        name: &str,
        command: &str,
        program: &str,
        to: &mut dyn Write,
    ) -> io::Result<()> {
        let script = include_str!("bash.sh")
            .replace("VARIABLE", variable)
            .replace("NAME", name)
            .replace("COMMAND", command)
            // Last: a path may hold any word.
            .replace("PROGRAM", &quote(program));
        to.write_all(script.as_bytes())
    }

    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        folder: Option<&Path>,
        to: &mut dyn Write,
    ) -> io::Result<()> {
        env::Bash.write_complete(command, words, folder, to)
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_path_is_one_word_to_the_shell() {
        assert_eq!(quote("/it's here/gannet"), r"'/it'\''s here/gannet'");
    }
}
