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

/// Prepares a connected socket to carry datagrams: what is written leaves at once, what can't leave waits with the caller,
/// who may drop it, and the connection is kept known to those in between.
///
/// `unsent` is how many bytes the kernel takes that it can't send yet. Where there is no `TCP_NOTSENT_LOWAT`, what has
/// been sent and is not acknowledged yet counts as well.
///
/// # Errors
///
/// If the operating system refuses.
pub fn prepare_for_datagrams(socket: &impl AsFd, unsent: u32) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return socket.set_tcp_notsent_lowat(unsent);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return socket.set_send_buffer_size(unsent as usize);
}
