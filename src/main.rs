//! The thin binary: parse, run, turn an error into one sentence and an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::main()
}
