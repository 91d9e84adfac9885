//! The running portal: listens, lets peers in, carries frames to and from the hub.
//!
//! One thread does everything: the hub decides in microseconds and the database is a local file.

mod admission;
mod http;
mod limiter;
mod outbox;
mod policy_file;
mod portal;
mod session;
mod tls;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use self::admission::Endpoint;
use self::http::{Head, HeadError, Refusal};
use self::outbox::Inlet;
use self::policy_file::PolicyFile;
pub(crate) use self::policy_file::read as read_policy;
use self::portal::Portal;
use self::tls::Tls;
pub use self::tls::TlsFiles;
use self::watch::Watch;
use crate::hub::ConnectionId;
use crate::store::Store;

/// How long TLS and the request may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that have not been let in yet.
const MAX_HANDSHAKES: usize = 256;
/// How long connections may take to say goodbye when the portal stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after an error that is no single connection's, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a portal needs to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The policy file.
    pub config: PathBuf,
    /// The database file; made if it is not there.
    pub database: PathBuf,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// For `wss`; without, a proxy does TLS or nobody does.
    pub tls: Option<TlsFiles>,
}

/// A connection before and after TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Runs a portal until SIGTERM or SIGINT.
///
/// # Errors
/// If the policy file is wrong, the database or the certificate cannot be used, or an address is
/// taken.
pub fn run(options: &Options) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(options))
}

/// Each connection is an open file, and the usual limit is for programs with fewer.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let (mut policy_file, policy) = PolicyFile::open(&options.config)?;
    let store = Store::open(&options.database)
        .with_context(|| format!("cannot use the database {}", options.database.display()))?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("no randomness")?;
    let mut tls = options.tls.as_ref().map(Tls::load).transpose()?;
    let portal = Rc::new(Portal::new(policy, store, seed).context("cannot read the database")?);

    let (accepted, mut incoming) = mpsc::channel(16);
    let mut listeners = JoinSet::new();
    for address in &options.listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}: is another portal running?"))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, tls = tls.is_some(), "listening");
        listeners.spawn_local(accept(listener, accepted.clone()));
    }

    tell_service_manager(NotifyState::Ready);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut policy_changes = Watch::policy(&options.config);
    let mut database_changes = Watch::database(&options.database);
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut connections = JoinSet::new();
    let timers = portal.run_timers();
    tokio::pin!(timers);
    loop {
        tokio::select! {
            Some((stream, source)) = incoming.recv() => {
                if let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() {
                    let (portal, tls) = (Rc::clone(&portal), tls.clone());
                    connections.spawn_local(connection(portal, stream, source, tls, permit));
                }
            }
            Some(_) = connections.join_next() => {}
            () = &mut timers => {}
            () = policy_changes.changed() => {
                // A link may lead elsewhere now. The new watch comes first, so that nothing is missed.
                policy_changes = Watch::policy(&options.config);
                policy_file.reload(&portal, false);
            }
            () = database_changes.changed() => portal.review_tokens(),
            _ = hang_up.recv() => {
                policy_file.reload(&portal, true);
                portal.review_tokens();
                if let Some(tls) = &mut tls {
                    tls.reload();
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping");
    tell_service_manager(NotifyState::Stopping);
    listeners.abort_all();
    portal.shut_down();
    let all_gone = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(SHUTDOWN_TIMEOUT, all_gone).await;
    Ok(())
}

/// For `Type=notify` of systemd; nothing without it.
fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

async fn accept(listener: TcpListener, accepted: mpsc::Sender<(TcpStream, SocketAddr)>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                if accepted.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from its first byte to its last. The permit is for the part before the upgrade.
async fn connection(
    portal: Rc<Portal>,
    stream: TcpStream,
    source: SocketAddr,
    tls: Option<Tls>,
    permit: OwnedSemaphorePermit,
) {
    let source = source.ip().to_canonical();
    let handshake = timeout(HANDSHAKE_TIMEOUT, handshake(&portal, stream, source, tls.as_ref()));
    let admitted = tokio::select! {
        () = portal.stopped() => return,
        admitted = handshake => admitted,
    };
    drop(permit);
    match admitted {
        Ok(Ok(Some((stream, rest, id, inlet)))) => {
            session::run(&portal, id, stream, rest, inlet).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::debug!(%source, %error, "no proper request"),
        Err(_) => tracing::debug!(%source, "the request took too long"),
    }
}

type Admitted = (Box<dyn Stream>, Vec<u8>, ConnectionId, Inlet);

async fn handshake(
    portal: &Portal,
    stream: TcpStream,
    source: IpAddr,
    tls: Option<&Tls>,
) -> Result<Option<Admitted>, HeadError> {
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match tls {
        Some(tls) => Box::new(tls.accept(stream).await?),
        None => Box::new(stream),
    };
    let (head, rest) = http::read_head(&mut stream).await?;
    match (head.method.as_str(), head.path.as_str()) {
        ("GET" | "HEAD", "/healthz") => http::answer(&mut stream, 200, "ok\n").await?,
        ("GET" | "HEAD", "/readyz") => match portal.is_ready() {
            true => http::answer(&mut stream, 200, "ready\n").await?,
            false => http::answer(&mut stream, 503, "the database does not answer\n").await?,
        },
        _ => match admit(portal, &head, source) {
            Ok((key, id, inlet)) => {
                if let Err(error) = http::upgrade(&mut stream, key).await {
                    portal.disconnected(id);
                    return Err(error.into());
                }
                return Ok(Some((stream, rest, id, inlet)));
            }
            Err(refusal) => {
                let (status, code) = (refusal.problem.status, &refusal.problem.code);
                tracing::info!(status, code, detail = refusal.problem.detail, "refused");
                tracing::debug!(%source, path = head.path, "refused");
                http::refuse(&mut stream, &refusal).await?;
            }
        },
    }
    Ok(None)
}

fn admit<'a>(
    portal: &Portal,
    head: &'a Head,
    source: IpAddr,
) -> Result<(&'a str, ConnectionId, Inlet), Refusal> {
    let endpoint = Endpoint::of(&head.path)
        .ok_or_else(|| Refusal::new(404, "not_found", "nothing is at this path"))?;
    if head.method != "GET" {
        return Err(Refusal::new(405, "method_not_allowed", "a WebSocket begins with GET"));
    }
    let key = head.websocket_key.as_deref();
    let key = key.ok_or_else(|| Refusal::new(426, "upgrade_required", "this is a WebSocket"))?;
    let (id, inlet) = portal.admit(endpoint, head, source)?;
    Ok((key, id, inlet))
}
