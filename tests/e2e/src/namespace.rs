//! A network namespace with a resolver configuration of its own.
//!
//! Everything is as `ip netns` has it (the handle in `/run/netns`, files in `/etc/netns/NAME`
//! that stand for those in `/etc`), so `ip netns exec` shows what the lab's programs see. The lab
//! enters namespaces by itself: `ip netns exec` would hide the BPF file system and needs a shell
//! for anything else. What programs put beside the files of `/etc` stays in the namespace as well: it
//! has a folder of its own, whose entries lead to the host's. `/sys` stays the host's.

use std::{
    fmt::Display,
    fs::{self, File},
    io::{self, ErrorKind},
    net::IpAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command as System, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use crate::{
    lab::Site,
    process::{Command, checked_output},
};

/// Where `ip netns` keeps its handles.
pub(crate) const HANDLES: &str = "/run/netns";
/// Where `ip netns exec` finds files that stand for those in `/etc`.
pub(crate) const FILES: &str = "/etc/netns";
/// Below a lab's directory: the namespaces' own folders for `/etc`.
const OWN_ETC: &str = "etc";

/// Names resolve by files and DNS alone: a host's resolver daemons are reached through sockets,
/// which namespaces do not part.
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// One namespace of a lab. Copies of the handle are cheap; the lab removes the namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    site: Site,
    name: String,
    full_name: String,
}

impl Namespace {
    pub(crate) fn create(site: Site, name: &str) -> Result<Self> {
        let full_name = site.full_name(name);
        site.while_standing(|| {
            let files = Path::new(FILES).join(&full_name);
            fs::create_dir_all(&files)?;
            fs::write(files.join("resolv.conf"), "")?;
            fs::write(files.join("nsswitch.conf"), NSSWITCH)?;
            fs::write(files.join("hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
            let host = site.host_etc();
            fs::create_dir_all(&host)?;
            lay_etc(&site.directory().join(OWN_ETC).join(name), &host, &files)?;
            ip(&["netns", "add", &full_name])
        })
        .with_context(|| format!("cannot create the namespace {full_name}"))?;

        let namespace = Self { site, name: name.to_owned(), full_name };
        namespace.ip("link set lo up")?;
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6", 0)?;
        namespace.sysctl("net.ipv6.conf.default.accept_ra", 0)?;
        Ok(namespace)
    }

    /// The name inside the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that `ip netns` knows.
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// Runs `ip` in this namespace with arguments that are split at white space.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut all = vec!["-n", &self.full_name];
        all.extend(arguments.split_whitespace());
        self.site.while_standing(|| ip(&all))
    }

    /// Gives an interface an address with its prefix length. No duplicate address detection: it can
    /// be used at once.
    pub fn address(&self, interface: &str, address: &str) -> Result<()> {
        let flags = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {address} dev {interface} {flags}"))?;
        Ok(())
    }

    /// Adds or replaces the route to `destination` (a prefix or `default`) by way of `router`.
    pub fn route(&self, destination: &str, router: &str) -> Result<()> {
        let family = if router.contains(':') { "-6" } else { "-4" };
        self.ip(&format!("{family} route replace {destination} via {router}"))?;
        Ok(())
    }

    /// Sets a kernel parameter below `net`, written with dots.
    pub fn sysctl(&self, key: &str, value: impl Display) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let value = value.to_string();
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("cannot set {key} in {}", self.full_name))
    }

    /// Loads an nftables rule set.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.command("nft").args(["-f", "-"]).stdin(rules).run()?;
        Ok(())
    }

    /// Writes the resolvers that the namespace's programs ask, in place.
    pub fn set_resolvers(&self, resolvers: &[IpAddr]) -> Result<()> {
        let lines: String = resolvers.iter().map(|ip| format!("nameserver {ip}\n")).collect();
        fs::write(self.resolv_conf(), lines)?;
        Ok(())
    }

    /// The file that is `/etc/resolv.conf` inside.
    pub fn resolv_conf(&self) -> PathBuf {
        Path::new(FILES).join(&self.full_name).join("resolv.conf")
    }

    /// A program to be run in this namespace: one of the project's own by its bare name, else one
    /// of the system's.
    pub fn command(&self, program: &str) -> Command {
        Command::new(self.clone(), program)
    }

    /// Runs `action` on a thread inside the namespace. Sockets and processes that it makes belong
    /// to the namespace for good.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            self.join().with_context(|| format!("cannot enter {}", self.full_name))?;
            Ok(action())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Moves the calling thread into the namespace.
    fn join(&self) -> Result<()> {
        setns(File::open(Path::new(HANDLES).join(&self.full_name))?, CloneFlags::CLONE_NEWNET)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        // What is mounted from here on must not show outside.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
        let host = self.site.host_etc();
        let own = self.site.directory().join(OWN_ETC).join(&self.name);
        bind(Path::new("/etc"), &host)?;
        bind(&own, Path::new("/etc"))?;
        let files = host.join("netns").join(&self.full_name);
        for entry in fs::read_dir(files)? {
            let file = entry?;
            bind(&file.path(), &Path::new("/etc").join(file.file_name()))?;
        }
        Ok(())
    }
}

/// Fills a folder that stands for `/etc`: `files` are to be mounted there, all else leads to where the host's is mounted.
fn lay_etc(own: &Path, host: &Path, files: &Path) -> io::Result<()> {
    fs::create_dir_all(own)?;
    for entry in fs::read_dir("/etc")? {
        let entry = entry?;
        let (name, target) = (entry.file_name(), own.join(entry.file_name()));
        if files.join(&name).exists() {
            continue;
        }
        // A link stays what it is: it may be relative.
        let is_link = entry.file_type()?.is_symlink();
        symlink(if is_link { fs::read_link(entry.path())? } else { host.join(name) }, target)?;
    }
    for entry in fs::read_dir(files)? {
        File::create(own.join(entry?.file_name()))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("{} cannot stand in for {}", source.display(), target.display()))
}

/// Where the programs of a lab find the host's `/etc`. Not below the lab's directory, which only root may enter.
pub(crate) fn host_etc(lab: &str) -> PathBuf {
    Path::new("/run").join(format!("connlib-lab-{lab}-etc"))
}

/// Removes what the namespaces of a lab have had of `/etc`.
pub(crate) fn remove_etc(lab: &str, directory: &Path) {
    drop(fs::remove_dir(host_etc(lab)));
    // Not what it leads to: links are not followed.
    drop(fs::remove_dir_all(directory.join(OWN_ETC)));
}

/// Removes a namespace and its files, whichever of the two are there.
pub(crate) fn remove(full_name: &str) -> Result<()> {
    if Path::new(HANDLES).join(full_name).exists() {
        ip(&["netns", "delete", full_name])?;
    }
    match fs::remove_dir_all(Path::new(FILES).join(full_name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => {
            // Goes only if it is empty, that is if nobody else uses it.
            drop(fs::remove_dir(FILES));
            Ok(())
        }
    }
}

/// Runs `ip` and returns what it printed.
pub(crate) fn ip(arguments: &[&str]) -> Result<String> {
    ensure!(!arguments.is_empty(), "ip needs arguments");
    let mut command = System::new("ip");
    command.args(arguments).stdin(Stdio::null());
    checked_output(command)
}
