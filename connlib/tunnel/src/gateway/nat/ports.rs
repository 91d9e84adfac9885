//! Which ports are tried for a new session.

/// The next higher ports are tried first, then some from all over the range.
const NEIGHBOURS: u16 = 8;
const ATTEMPTS: u16 = 64;
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// The wanted port, then others.
pub(super) fn candidates(wanted: u16) -> impl Iterator<Item = u16> {
    (0..ATTEMPTS).map(move |attempt| candidate(wanted, attempt))
}

/// The port to try at the given attempt: privileged if the wanted one is (RFC 4787 REQ-3), and not 0.
fn candidate(wanted: u16, attempt: u16) -> u16 {
    let port = match attempt {
        0 => return wanted,
        1..NEIGHBOURS => wanted.wrapping_add(attempt),
        _ => wanted.wrapping_add(attempt.wrapping_mul(0x9e37)),
    };
    let is_privileged = wanted < FIRST_UNPRIVILEGED_PORT;
    match port < FIRST_UNPRIVILEGED_PORT {
        _ if is_privileged => (port % FIRST_UNPRIVILEGED_PORT).max(1),
        true => port + FIRST_UNPRIVILEGED_PORT,
        false => port,
    }
}
