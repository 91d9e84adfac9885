//! What TCP sockets are told that carry datagrams.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Firewalls forget connections that say nothing, hardly any sooner than after a minute.
const KEEPALIVE: Duration = Duration::from_secs(45);
/// When there is no answer to that, it is asked again after this, and three times.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// What is sent and not acknowledged for so long is lost, and the connection with it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED: Duration = Duration::from_secs(6);

/// Prepares a connected socket to carry datagrams: what is written leaves at once, what can't leave waits with the caller,
/// who may drop it, a peer that is gone is noticed soon, and the connection is kept known to those in between. It also
/// works, if not as well, where the operating system does not know one of these.
///
/// `unsent` is how many bytes the kernel takes that it can't send yet. Where there is no `TCP_NOTSENT_LOWAT`, what has
/// been sent and is not acknowledged yet counts as well.
pub fn prepare_for_datagrams(socket: &impl AsFd, unsent: u32) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    let results = [
        socket.set_tcp_nodelay(true),
        socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES)),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED)),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_notsent_lowat(unsent),
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        socket.set_send_buffer_size(unsent as usize),
    ];
    for error in results.into_iter().filter_map(io::Result::err) {
        tracing::debug!(%error, "a socket does without an option");
    }
}
