//! Where the programs lie that a lab starts.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// The directory with the project's binaries and the labs' helper.
#[derive(Debug, Clone)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// Binaries in `directory`, as `cargo build` leaves them in `target/<profile>`.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory that `CONNLIB_BIN_DIR` names, else that of the running program's own profile.
    pub fn locate() -> Result<Self> {
        if let Some(directory) = env::var_os("CONNLIB_BIN_DIR") {
            return Ok(Self::in_directory(directory));
        }
        let program = env::current_exe().context("cannot tell where this program lies")?;
        let directory = program.parent().context("this program lies in no directory")?;
        // Cargo keeps test programs one level below the binaries.
        let directory = if directory.ends_with("deps") {
            directory.parent().unwrap_or(directory)
        } else {
            directory
        };
        Ok(Self::in_directory(directory))
    }

    /// The path of one program; an error that says how to build it if it is not there.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        ensure!(
            path.is_file(),
            "{} is missing: run `cargo xtask test --only namespaces`, or build it with `cargo build -p {}`",
            path.display(),
            name.trim_end_matches("-helper"),
        );
        Ok(path)
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}
