//! What our TCP sockets have in common.

use std::io;
use std::os::fd::AsFd;

use socket2::SockRef;

/// Limits what the kernel takes from us that it can't send yet, in bytes: the rest is for the caller to keep or to drop.
///
/// Where there is no `TCP_NOTSENT_LOWAT`, what has been sent and is not acknowledged yet counts as well.
///
/// # Errors
///
/// If the operating system refuses.
pub fn limit_unsent(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    let socket = SockRef::from(socket);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return socket.set_tcp_notsent_lowat(bytes);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return socket.set_send_buffer_size(bytes as usize);
}
