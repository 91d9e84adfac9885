//! What the kernel left undone in a packet that it hands to a TUN device, or what we leave to the kernel.
//!
//! This is the meaning of `struct virtio_net_hdr` (virtio 1.2 §5.1.6), the ten bytes that stand before every packet
//! of a TUN device opened with `IFF_VNET_HDR`. Numbers in it have the byte order of the machine.

use crate::headers::ParseError;

/// Length of the encoded form: `struct virtio_net_hdr` without the number of buffers.
pub const VIRTIO_HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// The first segment carries CWR. Cutting looks at the TCP header for that.
const GSO_ECN: u8 = 0x80;

/// What is left to do before a packet can travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The checksum is partial.
    pub checksum: Option<PartialChecksum>,
    /// The packet is a super-packet.
    pub segmentation: Option<Segmentation>,
}

/// A checksum field that holds the folded pseudo-header sum, not complemented. The checksum over everything from
/// `start` to the packet's end belongs there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Offset in the packet where summing starts.
    pub start: u16,
    /// Offset of the field from `start`.
    pub offset: u16,
}

/// The packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    /// Into what.
    pub kind: SegmentationKind,
    /// Payload bytes of each segment but the last, which may be shorter.
    pub segment_size: u16,
}

/// The kinds of super-packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentationKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either.
    Udp,
}

impl Offload {
    /// Nothing is left to do.
    pub const NONE: Self = Self { checksum: None, segmentation: None };

    /// From a virtio header. Its `hdr_len` is a hint that can't be trusted, and isn't read.
    ///
    /// Fails with [`ParseError::Offload`] for kinds that a TUN device doesn't produce unless asked to, and for a
    /// segment size of 0.
    pub fn decode(header: &[u8; VIRTIO_HEADER]) -> Result<Self, ParseError> {
        let [flags, gso_type, _, _, size0, size1, start0, start1, offset0, offset1] = *header;
        let checksum = (flags & NEEDS_CHECKSUM != 0).then(|| PartialChecksum {
            start: u16::from_ne_bytes([start0, start1]),
            offset: u16::from_ne_bytes([offset0, offset1]),
        });
        let kind = match gso_type & !GSO_ECN {
            GSO_NONE => return Ok(Self { checksum, segmentation: None }),
            GSO_TCP4 => SegmentationKind::Tcp4,
            GSO_TCP6 => SegmentationKind::Tcp6,
            GSO_UDP => SegmentationKind::Udp,
            _ => return Err(ParseError::Offload),
        };
        let segment_size = u16::from_ne_bytes([size0, size1]);
        if segment_size == 0 {
            return Err(ParseError::Offload);
        }
        Ok(Self { checksum, segmentation: Some(Segmentation { kind, segment_size }) })
    }

    /// As a virtio header. `header_len` is the length of all headers of a super-packet, 0 for other packets.
    pub fn encode(&self, header_len: u16) -> [u8; VIRTIO_HEADER] {
        let mut header = [0; VIRTIO_HEADER];
        if let Some(PartialChecksum { start, offset }) = self.checksum {
            header[0] = NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&start.to_ne_bytes());
            header[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        if let Some(Segmentation { kind, segment_size }) = self.segmentation {
            header[1] = match kind {
                SegmentationKind::Tcp4 => GSO_TCP4,
                SegmentationKind::Tcp6 => GSO_TCP6,
                SegmentationKind::Udp => GSO_UDP,
            };
            header[4..6].copy_from_slice(&segment_size.to_ne_bytes());
        }
        header[2..4].copy_from_slice(&header_len.to_ne_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn survives_a_round_trip() {
        for kind in [SegmentationKind::Tcp4, SegmentationKind::Tcp6, SegmentationKind::Udp] {
            for checksum in [None, Some(PartialChecksum { start: 20, offset: 16 })] {
                for segmentation in [None, Some(Segmentation { kind, segment_size: 1220 })] {
                    let offload = Offload { checksum, segmentation };
                    assert_eq!(Offload::decode(&offload.encode(40)), Ok(offload));
                }
            }
        }
    }

    #[test]
    fn is_laid_out_like_struct_virtio_net_hdr() {
        let offload = Offload {
            checksum: Some(PartialChecksum { start: 40, offset: 16 }),
            segmentation: Some(Segmentation { kind: SegmentationKind::Tcp6, segment_size: 1220 }),
        };
        let mut expected = vec![1, 4];
        for number in [60u16, 1220, 40, 16] {
            expected.extend(number.to_ne_bytes());
        }
        assert_eq!(offload.encode(60).to_vec(), expected);
        assert_eq!(Offload::NONE.encode(0), [0; VIRTIO_HEADER]);
    }

    #[test]
    fn refuses_what_it_cannot_cut() {
        let udp_fragmentation = [0, 3, 0, 0, 9, 9, 0, 0, 0, 0];
        assert_eq!(Offload::decode(&udp_fragmentation), Err(ParseError::Offload));
        let no_size = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Offload::decode(&no_size), Err(ParseError::Offload));
        // The ECN bit is no kind of its own.
        let tcp_with_cwr = [1, 0x81, 0, 0, 9, 0, 0, 0, 0, 0];
        assert!(Offload::decode(&tcp_with_cwr).unwrap().segmentation.is_some());
    }

    #[test]
    fn any_bytes() {
        let mut random = Random::new(1);
        for _ in 0..10_000 {
            let _ = Offload::decode(&random.array());
        }
    }
}
