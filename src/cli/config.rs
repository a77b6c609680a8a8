//! `tidegate config`

use super::{Failure, say, settings::Settings};

/// Prints the configuration in force: file, environment, flags and defaults
///
/// What it prints can be used as a file. It holds no secrets: those stand in files of their own, whose paths are printed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
}

const EXAMPLES: &str = "\
Examples:
  tidegate config                         what ./tidegate.toml means, defaults included
  TIDEGATE_LIMITS__CONNECTIONS=5000 tidegate config --config /etc/tidegate/tidegate.toml
  tidegate config --listen 0.0.0.0:8883 --certificate s.pem --key s.key --client-ca ca.pem \\
      --broker mqtt://127.0.0.1:1883 > tidegate.toml

Exit codes: 0 done; 2 usage or configuration.";

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        say(&self.settings.load()?.to_toml());
        Ok(())
    }
}
