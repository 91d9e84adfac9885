//! Non-blocking operations on a descriptor that tokio watches.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current runtime.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
pub(crate) fn register<T: Owner>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `Owner` keeps its descriptor open, and the same, until it is dropped; nobody gets hold of it mutably.
    unsafe { AsyncFd::register(inner) }.map_err(|error| error.into_parts().1)
}

/// A type that owns exactly one descriptor all its life.
pub(crate) trait Owner: AsRawFd {}
impl Owner for std::fs::File {}
impl Owner for socket2::Socket {}

/// Writes at once, without waiting for the reactor to find the descriptor writable first: a new descriptor is writable
/// from the start, but the reactor learns that only when the loop next waits.
///
/// After `WouldBlock` the descriptor counts as not writable until the kernel says otherwise.
pub(crate) fn write_now<T: AsRawFd, R>(
    io: &AsyncFd<T>,
    write: impl Fn(&T) -> io::Result<R>,
) -> io::Result<R> {
    let mut tried = false;
    let result = io.try_io(Interest::WRITABLE, |inner| {
        tried = true;
        write(inner)
    });
    if tried { result } else { write(io.get_ref()) }
}
