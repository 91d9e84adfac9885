//! The command line.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::policy;
use crate::server::{self, TlsFiles};
use crate::store::{Owner, Store, TokenId, TokenState};

/// A small portal: tells clients and gateways of each other, as one policy file allows.
///
/// Start with `check`, make a token for each gateway and client with `token new`, then `run`.
#[derive(Debug, Parser)]
#[command(name = "connlib-portal", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the portal until SIGTERM
    ///
    /// The policy file is read again when it changes and on SIGHUP; a wrong one changes nothing, and
    /// the log says what is wrong. GET /healthz and /readyz on the same port tell how it is.
    Run(Run),
    /// Check a policy file
    ///
    /// Prints every error and warning as FILE:LINE:COLUMN. The exit status is 0 if the file can be
    /// used, else 1.
    Check {
        /// The policy file
        file: PathBuf,
    },
    /// Make, list and revoke the tokens that clients, gateways and relays sign in with
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Args)]
struct Run {
    /// The policy file
    #[arg(long, value_name = "FILE", env = "CONNLIB_PORTAL_CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    database: Database,
    /// Where to listen; can be given more than once
    ///
    /// Plain WebSockets, for labs and behind a proxy, unless a certificate is given.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "CONNLIB_PORTAL_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:8080"
    )]
    listen: Vec<SocketAddr>,
    /// Certificate chain in PEM, for wss; read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "CONNLIB_PORTAL_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key in PEM, for wss
    #[arg(long, value_name = "FILE", env = "CONNLIB_PORTAL_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// How the log on standard error looks
    #[arg(long, value_enum, default_value_t, env = "CONNLIB_PORTAL_LOG_FORMAT")]
    log_format: LogFormat,
    /// What is logged: a level, or target=level pairs
    #[arg(long, value_name = "FILTER", default_value = "info", env = "CONNLIB_PORTAL_LOG")]
    log: String,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
struct Database {
    /// The database file; made if it is not there, readable by its owner alone
    #[arg(long, value_name = "FILE", env = "CONNLIB_PORTAL_DATABASE")]
    database: PathBuf,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it
    ///
    /// This is the only time that it can be seen: the database keeps a hash.
    New {
        #[command(flatten)]
        owner: NewOwner,
        /// When it ends by itself, such as 12h or 30d; never, if not given
        #[arg(long, value_name = "TIME", value_parser = policy::duration)]
        expires: Option<u64>,
        /// The policy file, to make sure that it has that name
        #[arg(long, value_name = "FILE", env = "CONNLIB_PORTAL_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        database: Database,
    },
    /// List all tokens: what they are for and whether they hold
    List {
        #[command(flatten)]
        database: Database,
    },
    /// End a token, and the connections made with it, at once
    Revoke {
        /// The id that `list` shows
        id: String,
        #[command(flatten)]
        database: Database,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct NewOwner {
    /// For devices of the client of this name
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// For the gateway of this name
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    /// For relays
    #[arg(long)]
    relay: bool,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(run) => run.run(),
        Command::Check { file } => check(&file),
        Command::Token(command) => command.run(),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            eprintln!("connlib-portal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Run {
    fn run(self) -> anyhow::Result<ExitCode> {
        let filter = EnvFilter::try_new(&self.log)
            .with_context(|| format!("\"{}\" is not a log filter like \"info\"", self.log))?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => {
                log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
            }
            LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
        }
        let tls = self.tls_cert.zip(self.tls_key);
        let options = server::Options {
            config: self.config,
            database: self.database.database,
            listen: self.listen,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        };
        server::run(&options)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let parsed = policy::parse(&server::read_policy(path)?);
    let (diagnostics, status) = match &parsed {
        Ok((_, warnings)) => (warnings, ExitCode::SUCCESS),
        Err(rejected) => (&rejected.0, ExitCode::FAILURE),
    };
    for diagnostic in diagnostics {
        eprintln!("{}:{diagnostic}", path.display());
    }
    if let Ok((policy, _)) = &parsed {
        let (sites, gateways) = (policy.sites.len(), policy.gateways.len());
        let (clients, resources) = (policy.clients.len(), policy.resources.len());
        let (rules, relays) = (policy.rules.len(), policy.relays.len());
        print(&format!(
            "ok: {sites} sites, {gateways} gateways, {clients} clients, {resources} resources, \
             {rules} policies, {relays} relays\n"
        ))?;
    }
    Ok(status)
}

impl TokenCommand {
    fn run(self) -> anyhow::Result<ExitCode> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        match self {
            Self::New { owner, expires, config, database } => {
                let owner = owner.checked(config.as_deref())?;
                let expires_at = expires.map(|seconds| now.saturating_add(seconds));
                let token = database.open()?.new_token(&owner, expires_at, now)?;
                eprintln!("token {} for {owner}; it cannot be shown again:", token.id);
                print(&format!("{}\n", token.text))?;
            }
            Self::List { database } => print(&list(&database.open()?, now)?)?,
            Self::Revoke { id, database } => {
                let revoked = database.open()?.revoke_token(&TokenId(id.clone()), now)?;
                ensure!(revoked, "no token has the id \"{id}\", or it was revoked before");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl NewOwner {
    fn checked(self, config: Option<&Path>) -> anyhow::Result<Owner> {
        let owner = match (self.client, self.gateway) {
            (Some(name), _) => Owner::Client(name),
            (_, Some(name)) => Owner::Gateway(name),
            _ => Owner::Relay,
        };
        if let Some(path) = config {
            let (policy, _) = policy::parse(&server::read_policy(path)?)
                .with_context(|| format!("the policy file {} is wrong", path.display()))?;
            let known = match &owner {
                Owner::Client(name) => policy.client_by_name(name).is_some(),
                Owner::Gateway(name) => policy.gateway_by_name(name).is_some(),
                Owner::Relay => true,
            };
            if !known {
                bail!("the policy file {} has no {owner}", path.display());
            }
        }
        Ok(owner)
    }
}

impl Database {
    fn open(&self) -> anyhow::Result<Store> {
        let path = self.database.display();
        Store::open(&self.database).with_context(|| format!("cannot use the database {path}"))
    }
}

fn list(store: &Store, now: u64) -> anyhow::Result<String> {
    let mut rows = vec![["ID", "STATE", "EXPIRES", "LAST USED", "FOR"].map(str::to_owned)];
    for token in store.tokens()? {
        let state = match token.state(now) {
            TokenState::Active => "active",
            TokenState::Expired => "expired",
            TokenState::Revoked => "revoked",
        };
        let time = |unix: Option<u64>| unix.map_or("never".to_owned(), rfc3339);
        rows.push([
            token.id.0.clone(),
            state.to_owned(),
            time(token.expires_at),
            time(token.last_used_at),
            token.owner.to_string(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut text = String::new();
    for [id, state, expires, used, owner] in &rows {
        let [a, b, c, d] = widths;
        text += &format!("{id:a$}  {state:b$}  {expires:c$}  {used:d$}  {owner}\n");
    }
    Ok(text)
}

fn rfc3339(unix: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// To standard output, where a closed pipe is no reason to panic.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_token_is_for_exactly_one_owner() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        assert!(parse("p token new --client a --database d --expires 30d"));
        assert!(parse("p token new --relay --database d"));
        assert!(!parse("p token new --database d"));
        assert!(!parse("p token new --client a --gateway b --database d"));
        assert!(!parse("p token new --relay --database d --expires soon"));
        assert!(!parse("p run --config c --database d --tls-cert x"));
    }
}
