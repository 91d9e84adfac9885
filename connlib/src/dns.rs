//! Queries on their way to resolvers and back, each by a socket of its own but for those over HTTPS.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use connlib_dns::{Deframer, QueryId, Transport, Upstream, frame};
use connlib_tunnel::client::DnsQuery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::doh::Https;

/// Longer answers by UDP are cut off; the resolver is then asked by TCP.
const MAX_DATAGRAM: usize = 4096;

/// The state machine gives a query up before that; this only keeps tasks from living for ever.
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers that nobody has looked at yet. Beyond, they wait in the kernel: a resolver may send more than it was asked.
const INBOX: usize = 64;

/// Carries queries.
pub(crate) struct Carrier {
    tasks: HashMap<QueryId, Task>,
    answers: mpsc::Sender<Answer>,
    inbox: mpsc::Receiver<Answer>,
    mark: Option<u32>,
    https: Option<Https>,
}

struct Task {
    repetitions: mpsc::Sender<Vec<u8>>,
    handle: AbortHandle,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) id: QueryId,
    pub(crate) from: Upstream,
    pub(crate) result: io::Result<Vec<u8>>,
}

impl Carrier {
    /// `mark` keeps queries out of the tunnel that are not meant to go through it. Without `https`, resolvers that
    /// need it are not asked.
    pub(crate) fn new(mark: Option<u32>, https: Option<Https>) -> Self {
        let (answers, inbox) = mpsc::channel(INBOX);
        Self { tasks: HashMap::new(), answers, inbox, mark, https }
    }

    /// Sends a query, or sends it once more.
    pub(crate) fn send(&mut self, query: DnsQuery) {
        if let Some(task) = self.tasks.get(&query.id) {
            // A repetition that finds no room has one before it that is about to be sent.
            let _ = task.repetitions.try_send(query.message);
            return;
        }
        let (repetitions, again) = mpsc::channel(4);
        let (id, from) = (query.id, query.server.clone());
        let mark = self.mark.filter(|_| !query.through_tunnel);
        let https = match (&query.server, &mut self.https) {
            (Upstream::Doh(url), Some(https)) => Some(https.ask(url, query.message.clone())),
            _ => None,
        };
        let answers = self.answers.clone();
        let task = tokio::spawn(async move {
            let asked = ask(query, mark, again, https, &answers);
            let result = tokio::time::timeout(PATIENCE, asked).await;
            if let Ok(Err(error)) = result {
                let _ = answers.send(Answer { id, from, result: Err(error) }).await;
            }
        });
        self.tasks.insert(id, Task { repetitions, handle: task.abort_handle() });
    }

    /// A query is over.
    pub(crate) fn finish(&mut self, id: QueryId) {
        if let Some(task) = self.tasks.remove(&id) {
            task.handle.abort();
        }
    }

    /// The network is another one: connections over it are of no use any more.
    pub(crate) fn reset(&mut self) {
        if let Some(https) = &mut self.https {
            https.reset();
        }
    }

    /// The next answer. Cancel safe.
    pub(crate) async fn next(&mut self) -> Answer {
        match self.inbox.recv().await {
            Some(answer) => answer,
            // INVARIANT: a sender lives in this value.
            None => std::future::pending().await,
        }
    }
}

async fn ask(
    query: DnsQuery,
    mark: Option<u32>,
    again: mpsc::Receiver<Vec<u8>>,
    https: Option<oneshot::Receiver<io::Result<Vec<u8>>>>,
    answers: &mpsc::Sender<Answer>,
) -> io::Result<()> {
    match (&query.server, query.transport) {
        (Upstream::Do53(server), Transport::Udp) => {
            by_udp(&query, *server, mark, again, answers).await
        }
        (Upstream::Do53(server), _) => {
            let message = by_tcp(&query, *server, mark).await?;
            deliver(&query, Ok(message), answers).await;
            Ok(())
        }
        (Upstream::Doh(_), _) => {
            let answer = https.ok_or(io::ErrorKind::Unsupported)?.await;
            let message = answer
                .map_err(|_| io::Error::other("too many questions wait for the resolver"))??;
            deliver(&query, Ok(message), answers).await;
            Ok(())
        }
    }
}

async fn by_udp(
    query: &DnsQuery,
    server: SocketAddr,
    mark: Option<u32>,
    mut again: mpsc::Receiver<Vec<u8>>,
    answers: &mpsc::Sender<Answer>,
) -> io::Result<()> {
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    set_mark(&socket, mark)?;
    // A connected socket takes nothing from others, and hears of ICMP errors.
    socket.connect(server).await?;
    socket.send(&query.message).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                let len = received?;
                let message = buffer.get(..len).unwrap_or_default().to_vec();
                deliver(query, Ok(message), answers).await;
            }
            Some(message) = again.recv() => {
                socket.send(&message).await?;
            }
        }
    }
}

async fn by_tcp(query: &DnsQuery, server: SocketAddr, mark: Option<u32>) -> io::Result<Vec<u8>> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    set_mark(&socket, mark)?;
    let mut stream = socket.connect(server).await?;
    let framed = frame(&query.message)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the query is too long"))?;
    stream.write_all(&framed).await?;
    let mut deframer = Deframer::new(usize::from(u16::MAX));
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut received = buffer.get(..len).unwrap_or_default();
        let message = deframer
            .next_message(&mut received)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        if let Some(message) = message {
            return Ok(message);
        }
    }
}

async fn deliver(query: &DnsQuery, result: io::Result<Vec<u8>>, answers: &mpsc::Sender<Answer>) {
    let answer = Answer { id: query.id, from: query.server.clone(), result };
    // Nobody listens any more when the session ends.
    let _ = answers.send(answer).await;
}

fn set_mark(socket: &impl std::os::fd::AsFd, mark: Option<u32>) -> io::Result<()> {
    mark.map_or(Ok(()), |mark| connlib_net::set_mark(socket, mark))
}
