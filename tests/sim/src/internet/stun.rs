//! The server that tells hosts their addresses (RFC 8489 §12, Binding over UDP).

use std::net::{IpAddr, SocketAddr};

const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];

/// The answer to a request that came from `source`.
pub(crate) fn answer(request: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let (header, _) = request.split_at_checked(20)?;
    if header[..2] != BINDING_REQUEST {
        return None;
    }
    // The cookie and the transaction id, which the address is obfuscated by.
    let key = &header[4..20];
    let (family, address) = match source.ip() {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (2, v6.octets().to_vec()),
    };
    let mut value = vec![0, family];
    value.extend(source.port().to_be_bytes().iter().zip(key).map(|(a, b)| a ^ b));
    value.extend(address.iter().zip(key).map(|(a, b)| a ^ b));
    let attribute_len = (value.len() as u16).to_be_bytes();
    let mut message = BINDING_SUCCESS.to_vec();
    message.extend((value.len() as u16 + 4).to_be_bytes());
    message.extend(key);
    message.extend(XOR_MAPPED_ADDRESS);
    message.extend(attribute_len);
    message.extend(value);
    Some(message)
}
