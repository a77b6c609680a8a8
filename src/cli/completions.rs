//! `tidegate completions`

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, say};

/// Writes what a shell completes commands and flags by, to standard output
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    /// For which shell
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  tidegate completions bash > ~/.local/share/bash-completion/completions/tidegate
  tidegate completions zsh > ~/.zfunc/_tidegate           with ~/.zfunc in $fpath, before compinit
  tidegate completions fish > ~/.config/fish/completions/tidegate.fish
  source <(tidegate completions bash)                     for this shell alone

Exit codes: 0 done; 2 usage.";

impl Args {
    pub(super) fn run(self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "tidegate", &mut script);
        say(&String::from_utf8_lossy(&script));
    }
}
