use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Settings;
use super::error::Error;

/// The first line of a file that is ours.
const MARKER: &str = "# BEGIN connlib DNS configuration";

/// A `resolv.conf` that we write in place: in a container it is a mount, which cannot be replaced by another file.
///
/// INVARIANT: a file that begins with [`MARKER`] has its original in the backup. The backup is complete before the marker is
/// written, and goes only after the marker has.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
}

/// Whether this content of a `resolv.conf` was written by us.
pub(crate) fn is_ours(content: impl AsRef<[u8]>) -> bool {
    content.as_ref().starts_with(MARKER.as_bytes())
}

/// The file that keeps what was in `path` before.
pub(crate) fn backup_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".before-connlib");
    name.into()
}

impl ResolvConf {
    /// Makes sure that the file can be ours, and restores what a crashed process left.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let mut resolv_conf = Self { path: path.to_owned() };
        resolv_conf.restore()?;
        Ok(resolv_conf)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn set(&mut self, settings: &Settings) -> Result<(), Error> {
        if settings.servers.is_empty() {
            return self.restore();
        }
        let (file, current) = self.read()?;
        let original = if is_ours(&current) {
            self.read_backup()?
        } else {
            self.write_backup(&file, &current)?;
            current.clone()
        };
        let original = String::from_utf8_lossy(&original);
        let wanted = render(&original, settings, &backup_of(&self.path)).into_bytes();
        if wanted == current { Ok(()) } else { self.overwrite(&file, &wanted) }
    }

    /// Puts the original back, unless somebody else has written the file since.
    pub(super) fn restore(&mut self) -> Result<(), Error> {
        let (file, current) = self.read()?;
        if is_ours(&current) {
            self.overwrite(&file, &self.read_backup()?)?;
        }
        let backup = backup_of(&self.path);
        match fs::remove_file(&backup) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { action: "remove", path: backup, source })
            }
            _ => Ok(()),
        }
    }

    fn read(&self) -> Result<(File, Vec<u8>), Error> {
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_NOFOLLOW);
            options
        };
        // Written only if there is something to write: a read-only file may be just right.
        let opened = options().write(true).open(&self.path).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                options().open(&self.path)
            }
            _ => Err(error),
        });
        let mut file = opened.map_err(|source| match fs::read_link(&self.path) {
            Ok(target) => Error::Symlink { path: self.path.clone(), target },
            Err(_) => self.failed("open", source),
        })?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|source| self.failed("read", source))?;
        Ok((file, content))
    }

    fn read_backup(&self) -> Result<Vec<u8>, Error> {
        let backup = backup_of(&self.path);
        match fs::read(&backup) {
            Ok(content) => Ok(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NoBackup { path: self.path.clone(), backup })
            }
            Err(source) => Err(Error::File { action: "read", path: backup, source }),
        }
    }

    fn write_backup(&self, file: &File, content: &[u8]) -> Result<(), Error> {
        let path = backup_of(&self.path);
        let write = || {
            let mode = file.metadata()?.mode();
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            let backup = options.mode(mode).custom_flags(libc::O_NOFOLLOW).open(&path)?;
            backup.write_all_at(content, 0)?;
            backup.sync_all()
        };
        write().map_err(|source| Error::File { action: "write", path: path.clone(), source })
    }

    fn overwrite(&self, file: &File, content: &[u8]) -> Result<(), Error> {
        // In this order the file is never empty, and never without its first line.
        file.write_all_at(content, 0)
            .and_then(|()| file.set_len(content.len() as u64))
            .and_then(|()| file.sync_all())
            .map_err(|source| self.failed("write", source))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::File { action, path: self.path.clone(), source }
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            tracing::debug!(%error, "Failed to restore the DNS settings");
        }
    }
}

/// Our file: the original with other servers, with our domain searched first, and without `ndots`, so that a name
/// with a dot in it is asked for as it is.
fn render(original: &str, settings: &Settings, backup: &Path) -> String {
    let mut search: Vec<&str> =
        settings.search_domain.iter().map(|domain| domain.as_str()).collect();
    let mut own_search = "";
    let mut kept = String::new();
    for line in original.lines() {
        let (keyword, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line, ""));
        match keyword {
            "nameserver" => {}
            // The last one counts.
            "search" | "domain" => own_search = rest,
            "options" => {
                let options: Vec<&str> =
                    rest.split_whitespace().filter(|option| !option.starts_with("ndots")).collect();
                if !options.is_empty() {
                    kept += &format!("options {}\n", options.join(" "));
                }
            }
            _ if line.trim().is_empty() || line.starts_with(['#', ';']) => {}
            _ => kept += &format!("{line}\n"),
        }
    }
    for domain in own_search.split_whitespace() {
        if !search.contains(&domain) {
            search.push(domain);
        }
    }

    let mut text = format!(
        "{MARKER}\n# Until its tunnel closes; what was here before: {}\n",
        backup.display()
    );
    for server in &settings.servers {
        text += &format!("nameserver {server}\n");
    }
    if !search.is_empty() {
        text += &format!("search {}\n", search.join(" "));
    }
    text + &kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str = "# Generated by a DHCP client\ndomain example.org\nnameserver 192.0.2.1\n\
                            search corp.example lab.example\noptions edns0 ndots:5 trust-ad\n\
                            sortlist 192.0.2.0/24\n";

    struct Folder(tempfile::TempDir);

    impl Folder {
        /// A folder with this `resolv.conf`.
        fn with(text: impl AsRef<[u8]>) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            fs::write(folder.file(), text).unwrap();
            folder
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("resolv.conf")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        /// The names of all files.
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        /// What tells one file, and one writing of it, from another.
        fn identity(&self) -> (u64, i64, i64) {
            let metadata = fs::metadata(self.file()).unwrap();
            (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        }
    }

    fn settings(servers: &[&str]) -> Settings {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        Settings { servers, search_domain: None }
    }

    /// Forgets the owner, as a crash would.
    fn crash(resolv_conf: ResolvConf) {
        std::mem::forget(resolv_conf);
    }

    #[test]
    fn servers_are_replaced_and_the_rest_is_kept() {
        let folder = Folder::with(ORIGINAL);
        let mut resolv_conf = ResolvConf::open(&folder.file()).unwrap();
        resolv_conf
            .set(&Settings {
                search_domain: Some("portal.example".parse().unwrap()),
                ..settings(&["100.100.111.1", "fd00:2021:1111:8000:100:100:111:0"])
            })
            .unwrap();
        let text = folder.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], MARKER);
        assert_eq!(
            lines[2..],
            [
                "nameserver 100.100.111.1",
                "nameserver fd00:2021:1111:8000:100:100:111:0",
                "search portal.example corp.example lab.example",
                "options edns0 trust-ad",
                "sortlist 192.0.2.0/24",
            ]
        );
        assert_eq!(folder.names(), ["resolv.conf", "resolv.conf.before-connlib"]);
    }

    #[test]
    fn the_original_comes_back_in_the_same_file() {
        // Bytes are bytes, also where they are no text.
        for original in [ORIGINAL.as_bytes(), b"", b"nameserver 192.0.2.1 # caf\xe9"] {
            let folder = Folder::with(original);
            let inode = folder.identity().0;
            let mut resolv_conf = ResolvConf::open(&folder.file()).unwrap();
            resolv_conf.set(&settings(&["100.100.111.1"])).unwrap();
            resolv_conf.set(&settings(&["100.100.111.2"])).unwrap();
            assert_eq!(folder.identity().0, inode);
            drop(resolv_conf);
            assert_eq!(fs::read(folder.file()).unwrap(), original);
            assert_eq!(folder.identity().0, inode);
            assert_eq!(folder.names(), ["resolv.conf"]);
        }
    }

    #[test]
    fn nothing_is_written_if_nothing_changes() {
        let folder = Folder::with(ORIGINAL);
        let untouched = folder.identity();
        let mut resolv_conf = ResolvConf::open(&folder.file()).unwrap();
        resolv_conf.set(&settings(&[])).unwrap();
        resolv_conf.restore().unwrap();
        assert_eq!(folder.identity(), untouched);

        resolv_conf.set(&settings(&["100.100.111.1"])).unwrap();
        let written = folder.identity();
        resolv_conf.set(&settings(&["100.100.111.1"])).unwrap();
        assert_eq!(folder.identity(), written);
        // No servers: the system's own settings are in force again.
        resolv_conf.set(&settings(&[])).unwrap();
        assert_eq!(folder.text(), ORIGINAL);
    }

    #[test]
    fn what_a_crash_left_is_restored_first() {
        let folder = Folder::with(ORIGINAL);
        let mut crashed = ResolvConf::open(&folder.file()).unwrap();
        crashed.set(&settings(&["100.100.111.1"])).unwrap();
        crash(crashed);

        let mut resolv_conf = ResolvConf::open(&folder.file()).unwrap();
        assert_eq!(folder.text(), ORIGINAL);
        assert_eq!(folder.names(), ["resolv.conf"]);
        resolv_conf.set(&settings(&["100.100.111.2"])).unwrap();
        drop(resolv_conf);
        assert_eq!(folder.text(), ORIGINAL);
    }

    #[test]
    fn a_backup_without_a_leftover_is_only_removed() {
        let folder = Folder::with(ORIGINAL);
        fs::write(backup_of(&folder.file()), "nameserver 203.0.113.1\n").unwrap();
        let untouched = folder.identity();
        ResolvConf::open(&folder.file()).unwrap();
        assert_eq!(folder.identity(), untouched);
        assert_eq!(folder.names(), ["resolv.conf"]);
    }

    #[test]
    fn a_leftover_without_its_backup_is_an_error_that_says_what_to_do() {
        let folder = Folder::with(format!("{MARKER}\nnameserver 100.100.111.1\n"));
        let error = ResolvConf::open(&folder.file()).unwrap_err();
        assert!(matches!(error, Error::NoBackup { .. }), "{error:?}");
        assert!(error.to_string().contains("put your own name servers"), "{error}");
    }

    #[test]
    fn what_another_program_has_written_meanwhile_stays() {
        let folder = Folder::with(ORIGINAL);
        let mut resolv_conf = ResolvConf::open(&folder.file()).unwrap();
        resolv_conf.set(&settings(&["100.100.111.1"])).unwrap();
        fs::write(folder.file(), "nameserver 203.0.113.1\n").unwrap();
        resolv_conf.restore().unwrap();
        assert_eq!(folder.text(), "nameserver 203.0.113.1\n");
        assert_eq!(folder.names(), ["resolv.conf"]);

        // If we write again, it is the new original.
        resolv_conf.set(&settings(&["100.100.111.1"])).unwrap();
        assert_eq!(
            crate::resolvers::read(&folder.file()).unwrap(),
            ["203.0.113.1:53".parse().unwrap()]
        );
        drop(resolv_conf);
        assert_eq!(folder.text(), "nameserver 203.0.113.1\n");
    }

    #[test]
    fn a_symlink_is_refused_and_an_alternative_is_named() {
        let folder = Folder::with(ORIGINAL);
        let link = folder.0.path().join("link");
        std::os::unix::fs::symlink("resolv.conf", &link).unwrap();
        let error = ResolvConf::open(&link).unwrap_err();
        assert!(matches!(error, Error::Symlink { .. }), "{error:?}");
        assert!(error.to_string().contains("systemd-resolved"), "{error}");

        // Also if it becomes one later.
        let mut resolv_conf = ResolvConf::open(&folder.file()).unwrap();
        let elsewhere = folder.0.path().join("elsewhere");
        fs::rename(folder.file(), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.file()).unwrap();
        let result = resolv_conf.set(&settings(&["100.100.111.1"]));
        assert!(matches!(result, Err(Error::Symlink { .. })), "{result:?}");
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), ORIGINAL);
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let error = ResolvConf::open(&path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn resolvers_are_those_from_before() {
        let folder = Folder::with(ORIGINAL);
        let mut resolv_conf = ResolvConf::open(&folder.file()).unwrap();
        resolv_conf.set(&settings(&["100.100.111.1"])).unwrap();
        let expected = ["192.0.2.1:53".parse().unwrap()];
        assert_eq!(crate::resolvers::read(&folder.file()).unwrap(), expected);
    }
}
