//! What kind of interface the kernel calls something.

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Both ends of such a link are interfaces of some host's, often of the same.
pub(crate) const VETH: &str = "veth";

/// `struct nlmsghdr` and `struct ifinfomsg`, in bytes.
const HEADER: usize = 16;
const INTERFACE: usize = 16;
/// Of an attribute: its length and type.
const ATTRIBUTE: usize = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// Bits of an attribute's type that are not of the type.
const FLAGS: u16 = 0xc000;
/// Longer than what the kernel has to say about an interface.
const LONGEST: usize = 1 << 16;

/// The kind of an interface that is not a device of its own; hardware has none.
pub(crate) fn of(index: u32) -> io::Result<Option<String>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut request = Vec::with_capacity(HEADER + INTERFACE);
    request.extend(((HEADER + INTERFACE) as u32).to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence, port; family and type of what is asked about.
    request.extend([0; 12]);
    request.extend(index.to_ne_bytes());
    request.extend([0; 8]);

    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = vec![0; LONGEST];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    Ok(kind(&answer[..length]))
}

/// The kind in the kernel's answer.
fn kind(answer: &[u8]) -> Option<String> {
    let (header, rest) = answer.split_at_checked(HEADER)?;
    if header[4..6] != RTM_NEWLINK.to_ne_bytes() {
        return None;
    }
    let information = attribute(rest.get(INTERFACE..)?, IFLA_LINKINFO)?;
    let kind = attribute(information, IFLA_INFO_KIND)?;
    let kind = kind.strip_suffix(&[0]).unwrap_or(kind);
    String::from_utf8(kind.to_vec()).ok()
}

/// What the first attribute of a type holds.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_at_checked(ATTRIBUTE)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let of_type = u16::from_ne_bytes([header[2], header[3]]) & !FLAGS;
        let content = attributes.get(ATTRIBUTE..length)?;
        if of_type == wanted {
            return Some(content);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_of_no_kind() {
        assert_eq!(of(1).unwrap(), None);
    }

    #[test]
    fn nonsense_has_no_kind() {
        for length in 0..64 {
            assert_eq!(kind(&vec![0; length]), None);
            let mut answer = vec![0xff; length];
            if length > 6 {
                answer[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
            }
            assert_eq!(kind(&answer), None);
        }
    }
}
