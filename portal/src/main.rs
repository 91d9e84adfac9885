//! The binary `connlib-portal`; all it does is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    connlib_portal::cli::main()
}
